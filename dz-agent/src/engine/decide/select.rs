//! Selects the peers of a request to disconnect. It refuses peers of the file and of followed routes, which
//! no request may disconnect.

use std::net::Ipv4Addr;
use std::path::Path;

use dz_common::map::{Origin, Peer, PeerKey};

use crate::command::{Named, Refusal, RefusalKind, Selector};
use crate::engine::state::keys::{ifname, peer_key};
use crate::hash::{HashMap, HashSet};

/// The peers at each address, with their origins.
type ByAddress<'a> = HashMap<[u8; 4], Vec<(&'a PeerKey, Origin)>>;

/// Selects peers. `interfaces`: the names of those that are served or waited for; `file`: the path of the file of
/// peers, if there is one. Named peers are looked up, however many others there are.
///
/// # Errors
/// All faults: each named peer that is not connected, is named twice, is on several interfaces, or was not
/// connected by a request.
pub(crate) fn select(
    peers: &HashMap<PeerKey, Peer>,
    interfaces: &[&str],
    file: Option<&Path>,
    selector: &Selector,
) -> Result<Vec<PeerKey>, Refusal> {
    let on = |interface: &Option<String>, key: &PeerKey| {
        interface.as_deref().is_none_or(|name| name == ifname(key))
    };
    let wanted = match selector {
        Selector::Peers(wanted) => wanted,
        Selector::All { interface } => {
            let ours =
                |(key, peer): &(&PeerKey, &Peer)| on(interface, key) && peer.origin == Origin::Api;
            return Ok(peers.iter().filter(ours).map(|(key, _)| *key).collect());
        }
    };
    let mut keys = Vec::new();
    let mut faults = Vec::new();
    let mut others = None;
    let mut named = HashSet::default();
    for Named { interface, peer } in wanted {
        let found = interfaces.iter().filter_map(|name| {
            let (key, found) = peers.get_key_value(&peer_key(name, *peer))?;
            on(interface, key).then_some((key, found.origin))
        });
        let mut found: Vec<_> = found.collect();
        if found.is_empty() {
            // By an interface that an earlier agent served: one pass over all peers, however many are wanted.
            let others = others.get_or_insert_with(|| by_address(peers));
            let others = others.get(&peer.octets()).into_iter().flatten();
            found.extend(others.filter(|(key, _)| on(interface, key)));
        }
        match *found {
            [] => faults.push(format!("peer {peer}: not connected")),
            [(_, origin)] if origin != Origin::Api => {
                faults.push(not_by_request(*peer, origin, file));
            }
            [(key, _)] if !named.insert(*key) => {
                faults.push(format!("peer {peer}: named twice"));
            }
            [(key, _)] => keys.push(*key),
            _ => faults.push(format!("peer {peer}: on several interfaces; name one")),
        }
    }
    if faults.is_empty() {
        return Ok(keys);
    }
    Err(Refusal {
        kind: RefusalKind::NotFound,
        faults,
    })
}

fn by_address(peers: &HashMap<PeerKey, Peer>) -> ByAddress<'_> {
    let mut at = ByAddress::default();
    for (key, peer) in peers {
        at.entry(key.peer).or_default().push((key, peer.origin));
    }
    at
}

/// Says why a request may not disconnect a peer that no request has connected, and what to do instead.
fn not_by_request(peer: Ipv4Addr, origin: Origin, file: Option<&Path>) -> String {
    if origin == Origin::Follow {
        return format!(
            "peer {peer}: followed: have its route withdrawn by whoever made it, or exclude the \
             destination (--exclude {peer})"
        );
    }
    let file = file.map_or_else(|| "the file of peers".into(), Path::to_string_lossy);
    format!("peer {peer}: configured: remove its line from {file} and send SIGHUP")
}

#[cfg(test)]
mod tests {
    use dz_common::session::Timers;

    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn peers(all: &[(&str, Ipv4Addr, Origin)]) -> HashMap<PeerKey, Peer> {
        let peer = |origin| Peer {
            local: [10, 0, 0, 1],
            via: [0; 4],
            timers: Timers::DEFAULT,
            origin,
            left_out: 0,
            reserved: [0; 2],
        };
        let all = all.iter();
        all.map(|(name, dst, origin)| (peer_key(name, *dst), peer(*origin)))
            .collect()
    }

    fn named(interface: Option<&str>, peer: Ipv4Addr) -> Named {
        let interface = interface.map(str::to_owned);
        Named { interface, peer }
    }

    fn faults(peers: &HashMap<PeerKey, Peer>, wanted: Vec<Named>) -> Vec<String> {
        let refused = select(
            peers,
            &["a", "b"],
            Some(Path::new("/etc/peers")),
            &Selector::Peers(wanted),
        );
        refused.expect_err("a refusal").faults
    }

    #[test]
    fn all_means_those_of_requests() {
        let others = Ipv4Addr::new(10, 0, 0, 3);
        let peers = peers(&[("a", PEER, Origin::Api), ("a", others, Origin::Config)]);
        let all = |interface: Option<&str>| {
            let interface = interface.map(str::to_owned);
            select(&peers, &["a"], None, &Selector::All { interface }).unwrap()
        };
        assert_eq!(all(None), [peer_key("a", PEER)]);
        assert_eq!(all(Some("b")), []);
    }

    #[test]
    fn every_fault_is_told() {
        let gone = Ipv4Addr::new(10, 0, 0, 9);
        let both = Ipv4Addr::new(10, 0, 0, 4);
        let peers = peers(&[
            ("a", PEER, Origin::Api),
            ("a", both, Origin::Api),
            ("b", both, Origin::Api),
        ]);
        let wanted = vec![
            named(None, PEER),
            named(Some("a"), PEER),
            named(None, gone),
            named(None, both),
        ];
        let faults = faults(&peers, wanted);
        let ends = [
            "named twice",
            "not connected",
            "on several interfaces; name one",
        ];
        assert_eq!(faults.len(), ends.len());
        assert!(
            faults
                .iter()
                .zip(ends)
                .all(|(fault, end)| fault.ends_with(end))
        );
        let one = Selector::Peers(vec![named(Some("b"), both)]);
        for interfaces in [&["a", "b"][..], &["a"], &[]] {
            let selected = select(&peers, interfaces, None, &one).unwrap();
            assert_eq!(selected, [peer_key("b", both)], "served: {interfaces:?}");
        }
    }

    #[test]
    fn whose_it_is_says_what_to_do() {
        for (origin, advice) in [
            (Origin::Config, "remove its line from /etc/peers"),
            (Origin::Follow, "--exclude 10.0.0.2"),
        ] {
            let peers = peers(&[("a", PEER, origin)]);
            let faults = faults(&peers, vec![named(None, PEER)]);
            assert!(
                faults.len() == 1 && faults[0].contains(advice),
                "{faults:?}"
            );
        }
    }
}
