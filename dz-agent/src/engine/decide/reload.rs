//! Decides whether the file of peers, read again, may replace what it was before. A file that has been cut off,
//! or written by a program that failed, looks like one that wants nearly nobody any more.

use std::net::Ipv4Addr;

use dz_common::map::{Origin, Peer, PeerKey};

use crate::engine::state::wants::Configured;
use crate::hash::HashMap;
use crate::settings::Policy;

/// Of fewer peers any number may go.
const MANY: usize = 10;

/// Says why nobody but a human who insists wants this file; none if all is well. `peers`: those that there are;
/// `before`: those of the file as it was.
pub(crate) fn objection(
    peers: &HashMap<PeerKey, Peer>,
    before: &Configured,
    (after, policy): (&Configured, &Policy),
) -> Option<String> {
    if after.is_empty() && !before.is_empty() {
        let count = before.len();
        return Some(format!("no line names a peer, {count} would be given up"));
    }
    // Of the file, and of all, for its `exclude` lines are for requests and followed routes, too.
    let is_gone = |key: &PeerKey| !after.contains_key(key);
    let gone = before.keys().filter(|key| is_gone(key)).count();
    let lost = |(key, peer): &(&PeerKey, &Peer)| {
        let excluded = policy.excluded(Ipv4Addr::from(key.peer)).is_some();
        excluded || peer.origin == Origin::Config && is_gone(key)
    };
    let lost = peers.iter().filter(lost).count();
    let most = |gone: usize, of: usize| of >= MANY && gone * 2 > of;
    [(gone, before.len()), (lost, peers.len())]
        .into_iter()
        .find(|(gone, of)| most(*gone, *of))
        .map(|(gone, of)| format!("{gone} of {of} peers would be given up"))
}

#[cfg(test)]
mod tests {
    use dz_common::session::Timers;

    use super::*;
    use crate::engine::state::keys::peer_key;

    fn peers(origin: Origin, numbers: std::ops::Range<u8>) -> Configured {
        let peer = Peer {
            local: [10, 0, 0, 1],
            via: [0; 4],
            timers: Timers::DEFAULT,
            origin,
            left_out: 0,
            reserved: [0; 2],
        };
        let key = |last| peer_key("dz0", Ipv4Addr::new(10, 9, 0, last));
        numbers.map(|last| (key(last), peer)).collect()
    }

    #[test]
    fn more_than_half_of_many_need_somebody_who_insists() {
        let policy = Policy::default();
        for (before, after, objects) in [
            (0..0, 0..0, false),
            (0..1, 0..0, true),
            (0..1, 1..2, false),
            (0..9, 0..1, false),
            (0..10, 0..5, false),
            (0..10, 0..4, true),
            (0..10, 20..40, true),
            (0..10, 0..40, false),
        ] {
            let before = peers(Origin::Config, before);
            let after = peers(Origin::Config, after);
            let found = objection(&before, &before, (&after, &policy));
            assert_eq!(found.is_some(), objects, "{before:?}, {after:?}: {found:?}");
        }
    }

    #[test]
    fn excluding_is_giving_up() {
        let file = peers(Origin::Config, 0..1);
        for origin in [Origin::Api, Origin::Follow] {
            let mut there = peers(origin, 0..10);
            there.extend(peers(Origin::Config, 0..1));
            let mut policy = Policy::default();
            policy.exclude("10.9.0.0/29".parse().unwrap());
            let found = objection(&there, &file, (&file, &policy)).unwrap();
            assert_eq!(found, "8 of 10 peers would be given up");
            let mut policy = Policy::default();
            policy.exclude("10.9.0.0/30".parse().unwrap());
            assert_eq!(objection(&there, &file, (&file, &policy)), None);
        }
    }
}
