//! The live sessions: their keys, the session that owns each route, the deadline slots, and the times at
//! which our clock asks for each. Only this file changes these, and it keeps them consistent.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dz_common::map::{SessionEntry, SessionKey};

use super::clock::Clock;
use super::damping::Damping;
use super::keys::{RouteKey, route_key};
use super::next_hops::NextHops;
use super::slots::Slots;
use crate::hash::{HashMap, HashSet};
use crate::host::identity::Identity;

/// How soon our clock asks for a session again at the earliest, ns: a turn of the clock ends whatever the transmit
/// program answers.
const SOONEST_NS: u64 = 1_000_000;

/// The part of a session that the engine keeps; its map entry has everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    generation: u32,
    slot: u32,
    interface: Arc<str>,
    next_hop: Option<Ipv4Addr>,
}

impl Live {
    /// Returns its generation, which tells it from an earlier session with the same key.
    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns its deadline slot.
    pub(crate) const fn slot(&self) -> u32 {
        self.slot
    }

    /// Returns the name of its interface, which may be gone.
    pub(crate) const fn interface(&self) -> &Arc<str> {
        &self.interface
    }

    /// Returns the next hop of frames to its peer; none on a layer-3 device.
    pub(crate) const fn next_hop(&self) -> Option<Ipv4Addr> {
        self.next_hop
    }
}

/// The slot and generation reserved for a session that is about to be inserted.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// Its deadline slot.
    pub(crate) slot: u32,
    /// Its generation, which no session had before.
    pub(crate) generation: u32,
}

/// The live sessions.
pub(crate) struct Sessions {
    /// The secret from which discriminators are made.
    identity: Identity,
    live: HashMap<SessionKey, Live>,
    /// The session that each route belongs to: there is one by each interface to each peer.
    owners: HashMap<RouteKey, SessionKey>,
    slots: Slots,
    clock: Clock,
    /// Which of them are held.
    damping: Damping,
    next_hops: NextHops,
    next_generation: u32,
}

impl Sessions {
    /// Makes room for `slots` sessions. Those in `found`, of an earlier agent, keep their slots; they are
    /// known when they have been [adopted](Self::adopt).
    pub(crate) fn new(identity: Identity, slots: u32, found: &[SessionEntry]) -> Self {
        let latest = found.iter().map(|entry| entry.generation).max();
        Self {
            identity,
            live: HashMap::default(),
            owners: HashMap::default(),
            slots: Slots::new(slots, found.iter().map(|entry| entry.slot)),
            clock: Clock::default(),
            damping: Damping::default(),
            next_hops: NextHops::default(),
            next_generation: latest.unwrap_or(0).wrapping_add(1).max(1),
        }
    }

    /// Has sessions held as this owner says; by default none is.
    pub(crate) fn damped_by(self, damping: Damping) -> Self {
        Self { damping, ..self }
    }

    /// Returns a session.
    pub(crate) fn get(&self, key: &SessionKey) -> Option<&Live> {
        self.live.get(key)
    }

    /// Returns every session, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SessionKey, &Live)> {
        self.live.iter()
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Returns the key of every session, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.live.keys().copied()
    }

    /// Returns the session that a route belongs to.
    pub(crate) fn owner_of(&self, route: RouteKey) -> Option<SessionKey> {
        self.owners.get(&route).copied()
    }

    /// Says whether the route to a session's peer belongs to this session.
    pub(crate) fn owns_route(&self, key: &SessionKey) -> bool {
        self.owners.get(&route_key(key)) == Some(key)
    }

    /// Returns how many more sessions there is room for.
    pub(crate) fn room(&self) -> usize {
        self.slots.room()
    }

    /// Returns the discriminator of a session, which is the same after every restart.
    pub(crate) fn discriminator(&self, interface: &str, local: Ipv4Addr, peer: Ipv4Addr) -> u32 {
        self.identity.discriminator(interface, local, peer).get()
    }

    /// Says whether a kernel program may still hold the slot or map element of a deleted session.
    pub(crate) const fn has_resting(&self) -> bool {
        self.slots.has_resting()
    }

    /// Notes that no kernel program holds the slot or map element of a deleted session any more.
    pub(crate) fn settle(&mut self) {
        self.slots.settle();
    }

    /// Reserves slot and generation for a new session; none if there is no room. The slots of deleted sessions
    /// are given out again after [`Self::settle`] alone.
    pub(crate) fn reserve(&mut self) -> Option<Reservation> {
        let slot = self.slots.take()?;
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        Some(Reservation { slot, generation })
    }

    /// Gives a reservation back whose session was not inserted.
    pub(crate) fn give_back(&mut self, reservation: &Reservation) {
        self.slots.release(reservation.slot);
    }

    /// Notes a session that has been inserted. Our clock asks for it at `now_ns`.
    pub(crate) fn inserted(
        &mut self,
        key: SessionKey,
        reservation: &Reservation,
        interface: Arc<str>,
        next_hop: Option<Ipv4Addr>,
        now_ns: u64,
    ) {
        let live = Live {
            generation: reservation.generation,
            slot: reservation.slot,
            interface,
            next_hop,
        };
        self.live.insert(key, live);
        self.owners.insert(route_key(&key), key);
        self.clock.set(reservation.slot, key, now_ns);
    }

    /// Says whether the sessions that were read are those that are known, all of them and no others.
    pub(crate) fn are(&self, read: &[SessionEntry]) -> bool {
        read.len() == self.live.len() && read.iter().all(|entry| self.knows(entry))
    }

    /// Says whether a session that was read is known, and its route has an owner.
    pub(crate) fn knows(&self, entry: &SessionEntry) -> bool {
        let live = self.live.get(&entry.key);
        live.is_some_and(|live| live.generation == entry.generation)
            && self.owners.contains_key(&route_key(&entry.key))
    }

    /// Returns the known sessions that are not among those that were read.
    pub(crate) fn missing_in(&self, read: &[SessionEntry]) -> Vec<SessionKey> {
        let there: HashSet<_> = read.iter().map(|entry| entry.key).collect();
        self.keys().filter(|key| !there.contains(key)).collect()
    }

    /// Notes a session that its map has and that is not known: an earlier agent's. Our clock asks for it at
    /// `now_ns`. `about` returns the name of its interface and its next hop. Returns whether the session
    /// is new.
    pub(crate) fn adopt(
        &mut self,
        entry: &SessionEntry,
        about: impl FnOnce() -> (Arc<str>, Option<Ipv4Addr>),
        now_ns: u64,
    ) -> bool {
        let owner = self.owners.entry(route_key(&entry.key));
        owner.or_insert(entry.key);
        match self.live.get(&entry.key) {
            Some(live) if live.generation == entry.generation => return false,
            // Somebody else has deleted it and inserted it again.
            Some(live) if live.slot != entry.slot => {
                self.clock.forget(live.slot);
                self.slots.release(live.slot);
            }
            _ => {}
        }
        self.slots.claim(entry.slot);
        self.damping.forget(&entry.key);
        self.damping.adopt(entry, now_ns);
        let (interface, next_hop) = about();
        let live = Live {
            generation: entry.generation,
            slot: entry.slot,
            interface,
            next_hop,
        };
        self.live.insert(entry.key, live);
        self.clock.set(entry.slot, entry.key, now_ns);
        true
    }

    /// Forgets a session that has been deleted from its map.
    pub(crate) fn forget(&mut self, key: &SessionKey) {
        if self.owns_route(key) {
            self.owners.remove(&route_key(key));
        }
        self.clock.has_not_left(key);
        self.damping.forget(key);
        if let Some(live) = self.live.remove(key) {
            self.clock.forget(live.slot);
            if let Some(next_hop) = live.next_hop {
                self.next_hops.give_up(&(key.ifindex, next_hop), key);
            }
            self.slots.release(live.slot);
        }
    }

    /// Returns when our clock is to ask for a session next, ns.
    pub(crate) fn next_look_ns(&mut self) -> Option<u64> {
        self.clock.next_ns()
    }

    /// Takes up to `most` sessions that our clock is to ask for by now, with their slots.
    pub(crate) fn take_due(&mut self, now_ns: u64, most: usize) -> Vec<(u32, SessionKey)> {
        self.clock.take(now_ns, most)
    }

    /// Has our clock ask for a session at `at_ns`, instead of whatever was set for it before.
    pub(crate) fn look_at(&mut self, slot: u32, key: SessionKey, at_ns: u64) {
        self.clock.set(slot, key, at_ns);
    }

    /// Has our clock ask for a session at `at_ns`, or earlier if that was set before.
    pub(crate) fn look_by(&mut self, key: SessionKey, at_ns: u64) {
        if let Some(live) = self.live.get(&key) {
            self.clock.set_earlier(live.slot, key, at_ns);
        }
    }

    /// Has our clock ask for a session when the transmit program wants it to, or later if the peer has left. Not
    /// immediately, whatever time that is by the clock of the programs.
    pub(crate) fn look_again(&mut self, slot: u32, key: SessionKey, next_due_ns: u64, now_ns: u64) {
        let next_due_ns = next_due_ns.max(now_ns.saturating_add(SOONEST_NS));
        self.clock.set_again(slot, key, next_due_ns, now_ns);
    }

    /// Has our clock not ask for a session any more, which is being closed.
    pub(crate) fn look_no_more(&mut self, key: &SessionKey) {
        if let Some(live) = self.live.get(key) {
            self.clock.forget(live.slot);
        }
    }

    /// Notes that a session's state has changed: its peer has not left.
    pub(crate) fn heard(&mut self, key: &SessionKey) {
        self.clock.has_not_left(key);
    }

    /// Replaces the sessions whose peers have left. Our clock asks at `now_ns` for those whose peers are
    /// back.
    pub(crate) fn have_left(&mut self, left: HashSet<SessionKey>, now_ns: u64) {
        for key in self.clock.have_left(left) {
            self.look_by(key, now_ns);
        }
    }

    /// Returns the sessions whose next hop's Ethernet address is not known.
    pub(crate) fn unresolved(&self) -> Vec<SessionKey> {
        let unresolved = |(key, live): &(&SessionKey, &Live)| {
            let next_hop = live.next_hop;
            next_hop.is_some_and(|hop| self.next_hops.mac(&(key.ifindex, hop)).is_none())
        };
        self.live
            .iter()
            .filter(unresolved)
            .map(|(key, _)| *key)
            .collect()
    }

    /// Has a session's next hop resolved, if it has one.
    pub(crate) fn resolve(&mut self, key: &SessionKey, now_ns: u64) {
        if let Some(next_hop) = self.live.get(key).and_then(|live| live.next_hop) {
            let hop = (key.ifindex, next_hop);
            self.next_hops.resolve(hop, *key, now_ns);
        }
    }

    /// Returns which sessions are held.
    pub(crate) const fn damping(&self) -> &Damping {
        &self.damping
    }

    /// Returns which sessions are held, to be changed.
    pub(crate) const fn damping_mut(&mut self) -> &mut Damping {
        &mut self.damping
    }

    /// Returns the next hops.
    pub(crate) const fn next_hops(&self) -> &NextHops {
        &self.next_hops
    }

    /// Returns the next hops, to be changed.
    pub(crate) const fn next_hops_mut(&mut self) -> &mut NextHops {
        &mut self.next_hops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const NOW_NS: u64 = 1_000;

    fn inserted(sessions: &mut Sessions, key: SessionKey) -> Reservation {
        let reservation = sessions.reserve().expect("room");
        sessions.inserted(key, &reservation, "doublezero0".into(), None, NOW_NS);
        reservation
    }

    fn key(peer: u8) -> SessionKey {
        fixture::entry([10, 0, 0, peer]).key
    }

    /// An entry in its map.
    fn entry(peer: u8, slot: u32, generation: u32) -> SessionEntry {
        SessionEntry {
            slot,
            generation,
            ..fixture::entry([10, 0, 0, peer])
        }
    }

    fn adopted(sessions: &mut Sessions, entry: &SessionEntry) -> bool {
        sessions.adopt(entry, || ("doublezero0".into(), None), NOW_NS)
    }

    #[test]
    fn a_session_is_all_there_or_not_at_all() {
        let mut sessions = Sessions::new(Identity::known([7; 16]), 2, &[]);
        let reservation = inserted(&mut sessions, key(1));
        assert_eq!(sessions.owner_of(route_key(&key(1))), Some(key(1)));
        assert_eq!(sessions.room(), 1);
        assert_eq!(sessions.take_due(NOW_NS, 9), [(reservation.slot, key(1))]);
        sessions.look_at(reservation.slot, key(1), NOW_NS);
        sessions.forget(&key(1));
        assert_eq!(sessions.get(&key(1)), None);
        assert_eq!(sessions.owner_of(route_key(&key(1))), None);
        assert_eq!(sessions.room(), 2);
        assert_eq!(sessions.next_look_ns(), None);
    }

    #[test]
    fn no_generation_comes_twice() {
        let mut sessions = Sessions::new(Identity::known([7; 16]), 4, &[entry(1, 3, u32::MAX - 1)]);
        let generations: Vec<_> = (0..3)
            .map(|_| sessions.reserve().expect("room").generation)
            .collect();
        assert_eq!(generations, [u32::MAX, 1, 2], "0 is none");
        assert!(sessions.reserve().is_none(), "slot 3 is taken");
    }

    #[test]
    fn a_place_that_was_given_back_can_be_had_again() {
        let mut sessions = Sessions::new(Identity::known([7; 16]), 1, &[]);
        let reservation = sessions.reserve().expect("room");
        sessions.give_back(&reservation);
        assert!(sessions.has_resting() && sessions.reserve().is_none());
        sessions.settle();
        let again = sessions.reserve().expect("room");
        assert_eq!(again.slot, reservation.slot);
        assert_ne!(again.generation, reservation.generation);
    }

    #[test]
    fn a_route_stays_with_the_session_that_has_it() {
        let mut sessions = Sessions::new(Identity::known([7; 16]), 2, &[]);
        inserted(&mut sessions, key(1));
        // With the same peer over the same interface, from another address.
        let other = SessionKey {
            local: [10, 9, 9, 9],
            ..key(1)
        };
        assert!(adopted(
            &mut sessions,
            &SessionEntry {
                key: other,
                ..entry(1, 1, 9)
            }
        ));
        assert!(sessions.owns_route(&key(1)) && !sessions.owns_route(&other));
        sessions.forget(&other);
        assert!(sessions.owns_route(&key(1)));
    }

    #[test]
    fn an_earlier_agents_session_is_adopted_once() {
        let found = entry(1, 1, 7);
        let mut sessions = Sessions::new(Identity::known([7; 16]), 2, &[found]);
        assert!(!sessions.are(&[found]));
        assert!(adopted(&mut sessions, &found));
        assert!(!adopted(&mut sessions, &found));
        assert!(sessions.are(&[found]) && sessions.knows(&found));
        assert_eq!(sessions.take_due(NOW_NS, 9), [(1, found.key)]);
        // Somebody else deletes it and inserts it again.
        let anew = entry(1, 0, 8);
        assert!(!sessions.are(&[anew]) && !sessions.knows(&anew));
        assert!(adopted(&mut sessions, &anew));
        assert_eq!(sessions.take_due(NOW_NS, 9), [(0, found.key)]);
        assert_eq!(sessions.room(), 1, "its earlier slot is free");
        assert_eq!(sessions.missing_in(&[]), [found.key]);
        assert_eq!(sessions.missing_in(&[anew]), []);
    }

    #[test]
    fn who_has_left_is_looked_at_when_it_is_back() {
        let mut sessions = Sessions::new(Identity::known([7; 16]), 1, &[]);
        let reservation = inserted(&mut sessions, key(1));
        sessions.take_due(NOW_NS, 9);
        sessions.have_left(HashSet::from_iter([key(1)]), NOW_NS);
        sessions.look_again(reservation.slot, key(1), NOW_NS + 5, NOW_NS);
        assert!(sessions.next_look_ns() > Some(NOW_NS + 1_000_000_000));
        sessions.have_left(HashSet::default(), NOW_NS + 9);
        assert_eq!(sessions.next_look_ns(), Some(NOW_NS + 9));
        // Our clock does not ask for a session that is being closed.
        sessions.look_no_more(&key(1));
        assert_eq!(sessions.next_look_ns(), None);
    }
}
