//! The maps of dz-ebpf, and what an agent reads and writes there. It fails as [`crate::datapath::Maps`].

use dz_common::counters::{Counter, Counters};
use dz_common::gate::Action;
use dz_common::map::{
    Config, Confined, Deadline, Event, LocalKey, MAX_GROUPS, NEVER_NS, Peer, PeerKey, SessionEntry,
    SessionKey,
};
use dz_common::pacing::{ahead_ns, due_now_stamp};
use dz_common::packet::Version;
use nix::errno::Errno;

use super::bounded::Bounded;
use super::counts::{BLOCKS, Counts};
use super::errors::{DELETE, UPDATE, map_error};
use super::groups::Group;
use super::ring::Ring;
use super::sessions::{Element, Sessions};
use crate::datapath::MapError;

/// Addresses that only gated interfaces hold (`MAX_CONFINED` in dz-ebpf).
const MAX_CONFINED: usize = 4_096;

/// A configuration that nobody has stored yet.
const UNCONFIGURED: Config = Config {
    abi_version: 0,
    port: 0,
    unknown_pass: 0,
    ignore_peer_passive: 0,
    version: Version::new([0; 4]),
    groups: 0,
    grace_ns: 0,
    when_down: Action::Pass,
    when_never_up: Action::Pass,
    ttl: 0,
    tos: 0,
    route_protocols: [0; 4],
};

/// A slot that nobody has had yet.
const UNUSED: Deadline = Deadline {
    deadline_ns: 0,
    key: SessionKey {
        ifindex: 0,
        local: [0; 4],
        peer: [0; 4],
    },
    next_due: 0,
};

/// The maps, as `dz-ebpf/src/maps.rs` declares them and [`crate::datapath::Datapath`] sizes them. The
/// programs beside this file use them directly, as those of dz-ebpf do.
#[derive(Clone, Debug)]
pub struct BpfMaps {
    pub(super) config: Config,
    pub(super) confined: Bounded<Confined, u32>,
    pub(super) counts: Counts,
    pub(super) deadlines: Vec<Deadline>,
    pub(super) events: Ring,
    pub(super) groups: Vec<Group>,
    pub(super) beat_ns: u64,
    pub(super) locals: Bounded<LocalKey, u32>,
    pub(super) peers: Bounded<PeerKey, Peer>,
    pub(super) sessions: Sessions,
}

impl BpfMaps {
    /// Makes empty maps with so many deadline slots.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let room = slots as usize;
        Self {
            config: UNCONFIGURED,
            confined: Bounded::new(MAX_CONFINED),
            counts: Counts::default(),
            deadlines: vec![UNUSED; room],
            events: Ring::new(),
            groups: vec![Group::new(); MAX_GROUPS as usize],
            beat_ns: 0,
            locals: Bounded::new(BLOCKS as usize),
            peers: Bounded::new(room),
            sessions: Sessions::new(room),
        }
    }

    /// Limits `dz_events` to so many events that nobody has taken yet.
    pub fn set_event_room(&mut self, room: usize) {
        self.events.set_room(room);
    }

    /// Returns how many sessions there is room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.deadlines.len()).unwrap_or(u32::MAX)
    }

    /// Returns the configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces the configuration.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Returns when an agent last said that it is alive, ns.
    #[must_use]
    pub const fn beat_ns(&self) -> u64 {
        self.beat_ns
    }

    /// Says that the agent is alive.
    pub fn beat(&mut self, now_ns: u64) {
        self.beat_ns = now_ns;
    }

    /// Reads one session; none if there is none with this key.
    #[must_use]
    pub fn session(&self, key: &SessionKey) -> Option<SessionEntry> {
        let entry = self.sessions.at(self.sessions.find(key)?);
        (entry.key == *key).then_some(*entry)
    }

    /// Returns every session with its place and its memory.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Inserts a session where its key says.
    ///
    /// # Errors
    /// There is one with that peer by that interface already (`EEXIST`), or the map is full (`E2BIG`).
    pub fn insert_session(&mut self, entry: &SessionEntry) -> Result<Element, MapError> {
        self.sessions
            .insert(entry.key.destination(), entry)
            .map_err(|errno| map_error(UPDATE, errno))
    }

    /// Deletes the session with the key's peer by its interface. That it is gone already is no error.
    pub fn delete_session(&mut self, key: &SessionKey) {
        let _ = self.sessions.delete(&key.destination());
    }

    /// Puts any session at the place of a key, in place of what is there: for tests, which have
    /// sessions in all kinds of states.
    ///
    /// # Errors
    /// The map is full.
    pub fn put_session(&mut self, at: &SessionKey, entry: &SessionEntry) -> Result<(), MapError> {
        self.delete_session(at);
        let put = self.sessions.insert(at.destination(), entry);
        put.map(|_| ()).map_err(|errno| map_error(UPDATE, errno))
    }

    /// Reads a peer.
    #[must_use]
    pub fn peer(&self, key: &PeerKey) -> Option<&Peer> {
        self.peers.get(key)
    }

    /// Shows every peer.
    pub fn peers(&self) -> impl Iterator<Item = (&PeerKey, &Peer)> {
        self.peers.iter()
    }

    /// Writes a peer.
    ///
    /// # Errors
    /// The map is full (`E2BIG`).
    pub fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError> {
        updated(self.peers.update(*key, *peer))
    }

    /// Shows every local address with its block of counters.
    pub fn locals(&self) -> impl Iterator<Item = (&LocalKey, &u32)> {
        self.locals.iter()
    }

    /// Writes which block of counters a local address has.
    ///
    /// # Errors
    /// The map is full (`E2BIG`).
    pub fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError> {
        updated(self.locals.update(*key, block))
    }

    /// Sets a block of counters to zero.
    pub fn clear_counters(&mut self, block: u32) {
        self.counts.clear(block);
    }

    /// Deletes a local address. That it is gone already is no error.
    pub fn delete_local(&mut self, key: &LocalKey) {
        let _ = self.locals.delete(key);
    }

    /// Shows every address that is confined to gated interfaces.
    pub fn confined(&self) -> impl Iterator<Item = &Confined> {
        self.confined.iter().map(|(key, _)| key)
    }

    /// Keeps packets from an address of an interface from leaving by another one.
    ///
    /// # Errors
    /// The map is full (`E2BIG`).
    pub fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError> {
        updated(self.confined.update(*key, ifindex))
    }

    /// Lets packets from an address leave by any interface. That they may already is no error.
    pub fn release(&mut self, key: &Confined) {
        let _ = self.confined.delete(key);
    }

    /// Reads a slot.
    #[must_use]
    pub fn deadline(&self, slot: u32) -> Option<&Deadline> {
        self.deadlines.get(slot as usize)
    }

    /// Writes a slot, if there is one with this number.
    pub fn set_deadline(&mut self, slot: u32, deadline: Deadline) {
        if let Some(at) = self.deadlines.get_mut(slot as usize) {
            *at = deadline;
        }
    }

    /// Gives a slot to a session that is about to be inserted, and that our clock is to ask for.
    pub fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64) {
        let deadline = Deadline {
            deadline_ns: NEVER_NS,
            key,
            next_due: due_now_stamp(now_ns),
        };
        self.set_deadline(slot, deadline);
    }

    /// Returns until when our clock need not ask for a session, ns; none if it is to ask now.
    #[must_use]
    pub fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64> {
        ahead_ns(self.deadline(slot)?.next_due, now_ns)
    }

    /// Reads a block of counters.
    ///
    /// # Errors
    /// There is no such block.
    pub fn counters(&self, block: u32) -> Result<Counters, MapError> {
        self.counts
            .read(block)
            .ok_or(MapError::Kernel(aya::maps::MapError::OutOfBounds {
                index: block,
                max_entries: BLOCKS,
            }))
    }

    /// Takes the oldest event that nobody has taken.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.take()
    }

    /// Returns how many events wait.
    #[must_use]
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// Adds one to a counter.
    pub(super) fn count(&mut self, block: u32, counter: Counter) {
        self.counts.add(block, counter);
    }
}

fn updated(result: Result<(), Errno>) -> Result<(), MapError> {
    result.map_err(|errno| map_error(UPDATE, errno))
}

/// Takes the absence of what was to be deleted for success, as [`crate::datapath::Maps`] does.
pub(super) fn deleted(errno: Errno) -> Result<(), MapError> {
    match errno {
        Errno::ENOENT => Ok(()),
        errno => Err(map_error(DELETE, errno)),
    }
}

#[cfg(test)]
mod tests {
    use dz_common::session::Timers;

    use super::*;
    use crate::fixture::{NOW_NS, entry};

    fn errno(error: &MapError) -> Option<i32> {
        match error {
            MapError::Kernel(aya::maps::MapError::SyscallError(error)) => {
                error.io_error.raw_os_error()
            }
            _ => None,
        }
    }

    fn peer() -> Peer {
        Peer {
            local: [10, 0, 0, 1],
            via: [0; 4],
            timers: Timers::DEFAULT,
            origin: dz_common::map::Origin::Api,
            left_out: 0,
            reserved: [0; 2],
        }
    }

    #[test]
    fn peers_and_sessions_are_bounded_by_the_slots() {
        let mut maps = BpfMaps::new(1);
        assert_eq!(maps.slots(), 1);
        let [a, b] = [1, 2].map(|peer| entry([10, 0, 0, peer]));
        maps.insert_session(&a).unwrap();
        let again = maps.insert_session(&a).unwrap_err();
        assert_eq!(errno(&again), Some(libc::EEXIST));
        let more = maps.insert_session(&b).unwrap_err();
        assert_eq!(errno(&more), Some(libc::E2BIG));
        maps.delete_session(&a.key);
        maps.delete_session(&a.key);
        maps.insert_session(&b).unwrap();

        let [a, b] = [1, 2].map(|last| PeerKey {
            ifname: [0; 16],
            peer: [10, 0, 0, last],
        });
        maps.set_peer(&a, &peer()).unwrap();
        maps.set_peer(&a, &peer()).unwrap();
        let more = maps.set_peer(&b, &peer()).unwrap_err();
        assert_eq!(errno(&more), Some(libc::E2BIG));
        assert_eq!(maps.peers().count(), 1);
    }

    #[test]
    fn locals_and_confined_are_bounded_by_constants() {
        let mut maps = BpfMaps::new(1);
        for ifindex in 0..BLOCKS {
            let key = LocalKey {
                ifindex,
                addr: [10, 0, 0, 1],
            };
            maps.set_local(&key, ifindex).unwrap();
        }
        let key = LocalKey {
            ifindex: BLOCKS,
            addr: [10, 0, 0, 1],
        };
        let error = maps.set_local(&key, 0).unwrap_err();
        assert_eq!(errno(&error), Some(libc::E2BIG));
        maps.delete_local(&LocalKey { ifindex: 0, ..key });
        maps.set_local(&key, 0).unwrap();
        assert_eq!(maps.locals().count(), BLOCKS as usize);

        let confined = |number: u32| Confined {
            addr: number.to_be_bytes(),
        };
        for number in 0..4_096 {
            maps.confine(&confined(number), 1).unwrap();
        }
        let error = maps.confine(&confined(4_096), 1).unwrap_err();
        assert_eq!(errno(&error), Some(libc::E2BIG));
        maps.release(&confined(7));
        maps.release(&confined(7));
        maps.confine(&confined(4_096), 1).unwrap();
    }

    #[test]
    fn a_session_is_read_by_its_whole_key() {
        let mut maps = BpfMaps::new(4);
        let entry = entry([10, 0, 0, 2]);
        maps.insert_session(&entry).unwrap();
        assert_eq!(maps.session(&entry.key), Some(entry));
        let other = SessionKey {
            local: [10, 9, 9, 9],
            ..entry.key
        };
        assert_eq!(maps.session(&other), None);
    }

    #[test]
    fn a_prepared_slot_is_due_at_once_and_never_scanned() {
        let mut maps = BpfMaps::new(4);
        let entry = entry([10, 0, 0, 2]);
        maps.prepare_slot(3, entry.key, NOW_NS);
        let slot = maps.deadline(3).unwrap();
        assert_eq!((slot.deadline_ns, slot.key), (NEVER_NS, entry.key));
        assert_eq!(maps.not_due_before(3, NOW_NS), None);
        assert_eq!(maps.not_due_before(4, NOW_NS), None, "no such slot");
        maps.prepare_slot(4, entry.key, NOW_NS);
        assert!(maps.deadline(4).is_none());
    }

    #[test]
    fn what_is_gone_is_deleted_already() {
        assert!(deleted(Errno::ENOENT).is_ok());
        let refused = deleted(Errno::EBUSY).unwrap_err();
        assert_eq!(errno(&refused), Some(libc::EBUSY));
        assert!(matches!(
            BpfMaps::new(1).counters(BLOCKS),
            Err(MapError::Kernel(aya::maps::MapError::OutOfBounds { .. }))
        ));
    }
}
