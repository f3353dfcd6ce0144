//! Ethernet addresses of next hops, and the sessions that wait for one.

use std::net::Ipv4Addr;

use dz_common::map::SessionKey;
use foldhash::{HashMap, HashSet, HashSetExt};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tracing::debug;

use crate::net::{Netlink, neighbours};

/// The kernel is asked about one next hop this often at most, however many sessions it is the next
/// hop of: it says itself when it has resolved one, unless its news are lost.
const ASK_EVERY_NS: u64 = 100_000_000;

/// Interface and address.
pub(super) type Hop = (u32, Ipv4Addr);
type Mac = [u8; 6];
/// A next hop, and its Ethernet address if it is known.
pub(super) type Neighbour = (u32, Ipv4Addr, Option<Mac>);

/// What is known of next hops.
#[derive(Default)]
pub(super) struct NextHops {
    known: HashMap<Hop, Mac>,
    unresolved: HashMap<Hop, Waiting>,
    pub(super) lookups: FuturesUnordered<BoxFuture<'static, Neighbour>>,
}

#[derive(Default)]
struct Waiting {
    sessions: HashSet<SessionKey>,
    asked_ns: Option<u64>,
}

impl NextHops {
    /// Its Ethernet address, if it is known.
    pub(super) fn mac(&self, hop: &Hop) -> Option<Mac> {
        self.known.get(hop).copied()
    }

    /// Has a next hop resolved; a session waits for that.
    pub(super) fn resolve(&mut self, netlink: &Netlink, hop: Hop, key: SessionKey, now_ns: u64) {
        if !self.wait(hop, key, now_ns) {
            return;
        }
        let (netlink, (ifindex, next_hop)) = (netlink.clone(), hop);
        self.lookups.push(Box::pin(async move {
            match neighbours::resolve(&netlink, ifindex, next_hop).await {
                Ok(mac) => (ifindex, next_hop, mac),
                Err(error) => {
                    debug!(%next_hop, %error, "neighbour not resolved; retried");
                    (ifindex, next_hop, None)
                }
            }
        }));
    }

    /// Whether it is time to ask the kernel.
    fn wait(&mut self, hop: Hop, key: SessionKey, now_ns: u64) -> bool {
        let waiting = self.unresolved.entry(hop).or_default();
        waiting.sessions.insert(key);
        let ask = waiting
            .asked_ns
            .is_none_or(|asked_ns| now_ns.saturating_sub(asked_ns) >= ASK_EVERY_NS);
        if ask {
            waiting.asked_ns = Some(now_ns);
        }
        ask
    }

    /// A next hop was resolved, or is not known any more. Returns who has waited for it.
    pub(super) fn found(&mut self, (ifindex, next_hop, mac): Neighbour) -> HashSet<SessionKey> {
        let hop = (ifindex, next_hop);
        let Some(mac) = mac else {
            self.known.remove(&hop);
            return HashSet::new();
        };
        self.known.insert(hop, mac);
        self.unresolved.remove(&hop).unwrap_or_default().sessions
    }

    /// A session waits no longer.
    pub(super) fn give_up(&mut self, hop: &Hop, key: &SessionKey) {
        if let Some(waiting) = self.unresolved.get_mut(hop) {
            waiting.sessions.remove(key);
            if waiting.sessions.is_empty() {
                self.unresolved.remove(hop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop = (7, Ipv4Addr::new(10, 0, 0, 1));
    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn key(peer: u8) -> SessionKey {
        SessionKey {
            ifindex: 7,
            local: [10, 0, 0, 9],
            peer: [10, 1, 0, peer],
        }
    }

    #[test]
    fn the_kernel_is_asked_once_for_all_who_wait() {
        let mut hops = NextHops::default();
        assert!(hops.wait(HOP, key(1), 5));
        assert!(!hops.wait(HOP, key(2), 5));
        assert!(!hops.wait(HOP, key(1), 4 + ASK_EVERY_NS));
        assert!(hops.wait(HOP, key(1), 5 + ASK_EVERY_NS), "news can be lost");
        let other = (8, HOP.1);
        assert!(hops.wait(other, key(3), 6), "another one");
        let waited = hops.found((HOP.0, HOP.1, Some(MAC)));
        assert_eq!(waited, HashSet::from_iter([key(1), key(2)]));
        assert_eq!((hops.mac(&HOP), hops.mac(&other)), (Some(MAC), None));
        assert_eq!(hops.found((HOP.0, HOP.1, None)), HashSet::new());
        assert_eq!(hops.mac(&HOP), None);
        assert!(hops.wait(HOP, key(1), 7), "it was known in between");
    }

    #[test]
    fn nothing_is_kept_for_who_gave_up() {
        let mut hops = NextHops::default();
        hops.wait(HOP, key(1), 5);
        hops.wait(HOP, key(2), 5);
        hops.give_up(&HOP, &key(1));
        assert_eq!(hops.unresolved.len(), 1);
        hops.give_up(&HOP, &key(2));
        assert!(hops.unresolved.is_empty());
    }
}
