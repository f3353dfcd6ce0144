//! The peers that the file and the followed routes want, and the peers to be settled: to be compared with
//! what is wanted, and changed accordingly (`flows/settle.rs`).

use std::collections::BTreeSet;

use dz_common::map::{Origin, Peer, PeerKey};

use super::followed::Followed;
pub(crate) use super::reloads::Configured;
use super::reloads::Reloads;
use crate::hash::HashSet;
use crate::settings::Policy;

/// The peers that are wanted without a request, and the peers to be settled.
pub(crate) struct Wants {
    configured: Configured,
    /// Exclusions and overrides, which apply to requests, too.
    policy: Policy,
    followed: Followed,
    /// The file as it is being read again.
    reloads: Reloads,
    /// Peers to be settled.
    dirty: HashSet<PeerKey>,
    /// Wanted peers that there is no room for.
    waiting: BTreeSet<PeerKey>,
    /// Peers whose session is to be opened when they are next settled.
    to_open: HashSet<PeerKey>,
}

impl Wants {
    pub(crate) fn new(configured: Configured, policy: Policy, followed: Followed) -> Self {
        Self {
            configured,
            policy,
            followed,
            reloads: Reloads::default(),
            dirty: HashSet::default(),
            waiting: BTreeSet::new(),
            to_open: HashSet::default(),
        }
    }

    /// Returns the peers of the file.
    pub(crate) const fn configured(&self) -> &Configured {
        &self.configured
    }

    pub(crate) const fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) const fn followed(&self) -> &Followed {
        &self.followed
    }

    pub(crate) const fn followed_mut(&mut self) -> &mut Followed {
        &mut self.followed
    }

    pub(crate) const fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    pub(crate) const fn reloads_mut(&mut self) -> &mut Reloads {
        &mut self.reloads
    }

    /// Replaces peers and policy by those of the file as it was read anew.
    pub(crate) fn configure(&mut self, configured: Configured, policy: Policy) {
        (self.configured, self.policy) = (configured, policy);
    }

    /// Forgets the peers of the file, the policy and everything to be settled, because the agent stops.
    pub(crate) fn clear(&mut self) {
        self.configure(Configured::default(), Policy::default());
        self.dirty.clear();
        self.waiting.clear();
        self.to_open.clear();
    }

    /// Notes that peers are to be settled.
    pub(crate) fn settle_later(&mut self, keys: impl IntoIterator<Item = PeerKey>) {
        self.dirty.extend(keys);
    }

    /// Takes the peers that are to be settled.
    pub(crate) fn take_dirty(&mut self) -> HashSet<PeerKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Takes some of the peers that are to be settled, `most` at most.
    pub(crate) fn take_some_dirty(&mut self, most: usize) -> Vec<PeerKey> {
        let some: Vec<_> = self.dirty.iter().take(most).copied().collect();
        for key in &some {
            self.dirty.remove(key);
        }
        some
    }

    /// Says whether any peers are to be settled.
    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Notes that a wanted peer waits for room. Returns whether it is the only one.
    pub(crate) fn wait_for_room(&mut self, key: PeerKey) -> bool {
        let is_first = self.waiting.is_empty();
        self.waiting.insert(key);
        is_first
    }

    /// Notes that a peer does not wait for room any more.
    pub(crate) fn wait_no_longer(&mut self, key: &PeerKey) {
        self.waiting.remove(key);
    }

    /// Returns the peers that wait for room, in the order in which they get it.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &PeerKey> {
        self.waiting.iter()
    }

    /// Notes that a peer's session is to be opened when peers are next settled.
    pub(crate) fn open_later(&mut self, key: PeerKey) {
        self.to_open.insert(key);
    }

    /// Takes the peers whose session is to be opened.
    pub(crate) fn take_to_open(&mut self) -> HashSet<PeerKey> {
        std::mem::take(&mut self.to_open)
    }

    /// Says whether any peer waits for its session or for room.
    pub(crate) fn has_waiting(&self) -> bool {
        !(self.to_open.is_empty() && self.waiting.is_empty())
    }
}

/// Says whether two peers are the same, whoever asked for them in whatever words.
pub(crate) fn same(a: &Peer, b: &Peer) -> bool {
    let without_words = |peer: &Peer| Peer {
        origin: Origin::Api,
        left_out: 0,
        ..*peer
    };
    without_words(a) == without_words(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::keys::peer_key;
    use crate::settings::Conditions;

    fn wants() -> Wants {
        let conditions = Conditions::new(&[], 144).unwrap();
        Wants::new(
            Configured::default(),
            Policy::default(),
            Followed::new(conditions),
        )
    }

    fn key(last: u8) -> PeerKey {
        peer_key("dz0", [10, 0, 0, last].into())
    }

    #[test]
    fn room_is_given_in_order_and_the_first_to_lack_it_is_news() {
        let mut wants = wants();
        assert!(!wants.has_waiting());
        assert!(wants.wait_for_room(key(7)));
        assert!(!wants.wait_for_room(key(3)));
        assert!(wants.waiting().eq([&key(3), &key(7)]) && wants.has_waiting());
        wants.wait_no_longer(&key(3));
        assert!(wants.waiting().eq([&key(7)]));
    }

    #[test]
    fn what_is_noted_is_taken_once() {
        let mut wants = wants();
        wants.settle_later([key(1), key(2), key(1)]);
        assert_eq!(wants.take_dirty().len(), 2);
        assert!(wants.take_dirty().is_empty());
        wants.settle_later([key(1), key(2), key(3)]);
        assert_eq!(wants.take_some_dirty(2).len(), 2);
        assert!(wants.has_dirty() && wants.take_some_dirty(2).len() == 1);
        assert!(!wants.has_dirty());
        wants.open_later(key(1));
        assert!(wants.has_waiting());
        assert_eq!(wants.take_to_open().len(), 1);
        assert!(!wants.has_waiting());
    }

    #[test]
    fn a_stopping_agent_wants_nobody() {
        let mut wants = wants();
        wants.settle_later([key(1)]);
        wants.wait_for_room(key(2));
        wants.open_later(key(3));
        wants.clear();
        assert!(!wants.has_waiting() && wants.take_dirty().is_empty());
    }
}
