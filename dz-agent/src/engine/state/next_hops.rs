//! The Ethernet addresses of next hops, and the sessions that wait for one to be resolved.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use dz_common::map::SessionKey;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tracing::debug;

use crate::engine::hands::{Answer, Mac};
use crate::hash::{HashMap, HashSet};
use crate::net::NetlinkError;

/// The shortest time between two questions to the kernel about one next hop, ns. The kernel notifies us when
/// it has resolved one; a question is repeated because a notification can be lost.
const ASK_EVERY_NS: u64 = 100_000_000;

/// Most next hops that the kernel is asked about at the same time. After a takeover there may be thousands,
/// and answers that find a netlink socket's buffer full are lost.
const MAX_QUESTIONS: usize = 64;

/// A next hop: the index of its interface, and its address.
pub(crate) type Hop = (u32, Ipv4Addr);
/// A next hop, and its Ethernet address if it is known.
pub(crate) type Neighbour = (u32, Ipv4Addr, Option<Mac>);

/// The next hops that are resolved, and those that sessions wait for.
#[derive(Default)]
pub(crate) struct NextHops {
    known: HashMap<Hop, Mac>,
    unresolved: HashMap<Hop, Waiting>,
    /// Questions that the kernel has not answered yet.
    lookups: FuturesUnordered<Answer<Neighbour>>,
    /// Next hops that the kernel is still to be asked about.
    to_ask: VecDeque<Hop>,
    /// Whether the neighbour tables have been read, and no notification has been lost since.
    up_to_date: bool,
}

/// A next hop that is not resolved.
#[derive(Default)]
struct Waiting {
    /// The sessions that wait for it.
    sessions: HashSet<SessionKey>,
    /// When a question about it was last decided on, ns.
    asked_ns: Option<u64>,
    /// Whether it stands in `to_ask`.
    queued: bool,
}

impl NextHops {
    /// Returns a next hop's Ethernet address, if it is known.
    pub(crate) fn mac(&self, hop: &Hop) -> Option<Mac> {
        self.known.get(hop).copied()
    }

    /// Says whether a question to the kernel is under way.
    pub(crate) fn is_asking(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Waits for the kernel's next answer; none if no question is under way.
    pub(crate) async fn answered(&mut self) -> Option<Neighbour> {
        self.lookups.next().await
    }

    /// Has a next hop resolved for a session, which waits for it from now on.
    pub(crate) fn resolve(&mut self, hop: Hop, key: SessionKey, now_ns: u64) {
        if !self.wait(hop, key, now_ns) {
            return;
        }
        if let Some(waiting) = self.unresolved.get_mut(&hop)
            && !std::mem::replace(&mut waiting.queued, true)
        {
            self.to_ask.push_back(hop);
        }
    }

    /// Takes the first next hop of those to ask about, unless too many questions are under way. The caller
    /// asks the kernel, and then calls [`Self::asked`].
    pub(crate) fn next_to_ask(&mut self) -> Option<Hop> {
        while self.lookups.len() < MAX_QUESTIONS {
            let hop = self.to_ask.pop_front()?;
            // Otherwise it has been resolved, or no session waits for it any more.
            if let Some(waiting) = self.unresolved.get_mut(&hop) {
                waiting.queued = false;
                return Some(hop);
            }
        }
        None
    }

    /// Keeps the answer to come about a next hop.
    pub(crate) fn asked(&mut self, hop: Hop, answer: Answer<Result<Option<Mac>, NetlinkError>>) {
        let (ifindex, next_hop) = hop;
        self.lookups.push(Box::pin(async move {
            match answer.await {
                Ok(mac) => (ifindex, next_hop, mac),
                Err(error) => {
                    debug!(%next_hop, %error, "neighbour not resolved; retried");
                    (ifindex, next_hop, None)
                }
            }
        }));
    }

    /// Has a session wait for a next hop. Returns whether it is time to ask the kernel about it.
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

    /// Notes the kernel's answer to a question. Returns the sessions that have waited for it. The answer "not
    /// known" changes nothing, for a notification may have told the address since.
    pub(crate) fn looked_up(&mut self, found: Neighbour) -> HashSet<SessionKey> {
        match found {
            (_, _, None) => HashSet::default(),
            (_, _, Some(_)) => self.found(found),
        }
    }

    /// Notes that a next hop is resolved, or is not any more. Returns the sessions that have waited for it.
    pub(crate) fn found(&mut self, (ifindex, next_hop, mac): Neighbour) -> HashSet<SessionKey> {
        let hop = (ifindex, next_hop);
        let Some(mac) = mac else {
            self.known.remove(&hop);
            return HashSet::default();
        };
        self.known.insert(hop, mac);
        self.unresolved.remove(&hop).unwrap_or_default().sessions
    }

    /// Says whether everything in the kernel's neighbour tables is known here.
    pub(crate) const fn is_up_to_date(&self) -> bool {
        self.up_to_date
    }

    /// Notes whether everything in the kernel's neighbour tables is known here.
    pub(crate) const fn set_up_to_date(&mut self, up_to_date: bool) {
        self.up_to_date = up_to_date;
    }

    /// Replaces all next hops of an interface by its neighbour table. Returns the sessions that have waited
    /// for one of these next hops.
    pub(crate) fn read(
        &mut self,
        ifindex: u32,
        table: impl IntoIterator<Item = (Ipv4Addr, Mac)>,
    ) -> HashSet<SessionKey> {
        self.known.retain(|(known, _), _| *known != ifindex);
        let found = table.into_iter();
        found
            .flat_map(|(next_hop, mac)| self.found((ifindex, next_hop, Some(mac))))
            .collect()
    }

    /// Forgets the next hops of all interfaces but these: the index of an interface that is gone is not used
    /// again.
    pub(crate) fn retain(&mut self, interfaces: &HashSet<u32>) {
        self.known
            .retain(|(known, _), _| interfaces.contains(known));
        let unresolved = &mut self.unresolved;
        unresolved.retain(|(waited_for, _), _| interfaces.contains(waited_for));
    }

    /// Notes that a session does not wait for a next hop any more.
    pub(crate) fn give_up(&mut self, hop: &Hop, key: &SessionKey) {
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
        assert_eq!(hops.found((HOP.0, HOP.1, None)), HashSet::default());
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

    #[test]
    fn a_table_takes_the_place_of_what_was_known_of_its_interface() {
        let mut hops = NextHops::default();
        assert!(!hops.is_up_to_date(), "nothing has been read yet");
        let (gone, elsewhere) = ((HOP.0, Ipv4Addr::new(10, 0, 0, 2)), (8, HOP.1));
        hops.found((gone.0, gone.1, Some(MAC)));
        hops.found((elsewhere.0, elsewhere.1, Some(MAC)));
        hops.wait(HOP, key(1), 5);
        let waited = hops.read(HOP.0, [(HOP.1, MAC)]);
        assert_eq!(waited, HashSet::from_iter([key(1)]));
        assert_eq!((hops.mac(&HOP), hops.mac(&gone)), (Some(MAC), None));
        assert_eq!(hops.mac(&elsewhere), Some(MAC), "another interface's");
    }

    #[test]
    fn nothing_is_kept_of_an_interface_that_is_gone() {
        let mut hops = NextHops::default();
        hops.found((HOP.0, HOP.1, Some(MAC)));
        hops.wait((HOP.0, Ipv4Addr::new(10, 0, 0, 2)), key(1), 5);
        hops.wait((8, HOP.1), key(2), 5);
        hops.retain(&HashSet::from_iter([8]));
        assert_eq!(hops.mac(&HOP), None);
        assert!(hops.unresolved.keys().eq([&(8, HOP.1)]));
    }
}
