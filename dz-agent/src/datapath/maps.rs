//! Reads and writes the maps by the types of their entries.
//!
//! The agent is the only user-space writer; [`MapReader`] is for threads that only read.

use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use dz_common::counters::Counters;
use dz_common::map::{
    Config, Confined, Deadline, Destination, Due, LocalKey, MAX_DUE, NEVER_NS, Peer, PeerKey,
    SessionEntry, SessionKey, name,
};
use dz_common::pacing::{ahead_ns, due_now_stamp};
use zerocopy::TryFromBytes;

use super::clock::now_ns;
use super::map_error::{MapError, Unreadable, gone_is_fine, read};
use super::mmap::{Mapped, mapped};
use super::object::Object;
use super::raw::batch::each;

/// `BPF_NOEXIST`
const NOEXIST: u64 = 1;
/// `BPF_F_LOCK`: copy the value under its spin lock.
const LOCKED: u64 = 4;

type SessionMap = HashMap<MapData, [u8; size_of::<Destination>()], [u8; size_of::<SessionEntry>()]>;
type PeerMap = HashMap<MapData, [u8; size_of::<PeerKey>()], [u8; size_of::<Peer>()]>;
type LocalMap = HashMap<MapData, [u8; size_of::<LocalKey>()], u32>;
type HeartbeatMap = Array<MapData, u64>;
type CounterMap = PerCpuArray<MapData, [u8; size_of::<Counters>()]>;
type ConfinedMap = HashMap<MapData, [u8; size_of::<Confined>()], u32>;

/// Reads the maps.
pub struct MapReader {
    sessions: SessionMap,
    peers: PeerMap,
    locals: LocalMap,
    counters: CounterMap,
    heartbeat: HeartbeatMap,
    confined: ConfinedMap,
}

impl MapReader {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// If one is not there.
    pub fn from_pins(pin_dir: &Path) -> Result<Self, MapError> {
        let open = |name: &str| Map::from_map_data(MapData::from_pin(pin_dir.join(name))?);
        Ok(Self {
            sessions: HashMap::try_from(open(name::SESSIONS)?)?,
            peers: HashMap::try_from(open(name::PEERS)?)?,
            locals: HashMap::try_from(open(name::LOCALS)?)?,
            counters: PerCpuArray::try_from(open(name::COUNTERS)?)?,
            heartbeat: Array::try_from(open(name::HEARTBEAT)?)?,
            confined: HashMap::try_from(open(name::CONFINED)?)?,
        })
    }

    /// Reads one session, copied under its lock; none if there is no such session.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn session(&self, key: &SessionKey) -> Result<Option<SessionEntry>, MapError> {
        match self.sessions.get(&as_key(key), LOCKED) {
            Ok(value) => {
                let entry: SessionEntry = read(&value, name::SESSIONS)?;
                Ok((entry.key == *key).then_some(entry))
            }
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads every session that this version can read, each copied under its lock.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn sessions(&self) -> Result<Vec<SessionEntry>, MapError> {
        self.sessions_and(|_| ())
    }

    /// The same, and shows the entries that it cannot read.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn sessions_and(
        &self,
        mut unreadable: impl FnMut(Unreadable),
    ) -> Result<Vec<SessionEntry>, MapError> {
        let mut sessions = Vec::new();
        each(&self.sessions, LOCKED, |key, value| {
            match SessionEntry::try_read_from_bytes(value) {
                Ok(entry) if as_key(&entry.key) == *key => sessions.push(entry),
                _ => unreadable(Unreadable {
                    map: name::SESSIONS,
                    key: key.to_vec(),
                }),
            }
            Ok(())
        })?;
        Ok(sessions)
    }

    /// Reads every peer that this version can read.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn peers(&self) -> Result<Vec<(PeerKey, Peer)>, MapError> {
        let mut peers = Vec::new();
        self.each_peer(|key, peer| peers.push((key, peer)), |_| ())?;
        Ok(peers)
    }

    /// Shows every peer that this version can read, and the entries that it cannot. What comes or goes meanwhile may be
    /// shown.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn each_peer(
        &self,
        mut show: impl FnMut(PeerKey, Peer),
        mut unreadable: impl FnMut(Unreadable),
    ) -> Result<(), MapError> {
        each(&self.peers, 0, |key, value| {
            let read = (
                PeerKey::try_read_from_bytes(key),
                Peer::try_read_from_bytes(value),
            );
            match read {
                (Ok(key), Ok(peer)) => show(key, peer),
                _ => unreadable(Unreadable {
                    map: name::PEERS,
                    key: key.to_vec(),
                }),
            }
            Ok(())
        })
    }

    /// Reads every local address with its block in `dz_counters`.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn locals(&self) -> Result<Vec<(LocalKey, u32)>, MapError> {
        let mut locals = Vec::new();
        for item in self.locals.iter() {
            let (key, block) = item?;
            locals.push((read(&key, name::LOCALS)?, block));
        }
        Ok(locals)
    }

    /// Reads every address that packets must not leave from by an interface without a gate.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn confined(&self) -> Result<Vec<Confined>, MapError> {
        let keys = self.confined.keys();
        keys.map(|key| read(&key?, name::CONFINED)).collect()
    }

    /// Reads when the agent last said that it is alive, ns.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn heartbeat(&self) -> Result<u64, MapError> {
        Ok(self.heartbeat.get(&0, 0)?)
    }

    /// Reads one block of counters, summed over CPUs.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn counters(&self, block: u32) -> Result<Counters, MapError> {
        let mut sum = Counters::default();
        for value in self.counters.get(&block, 0)?.iter() {
            sum.add(&read(value, name::COUNTERS)?);
        }
        Ok(sum)
    }
}

/// Reads and writes the maps: the agent's own access.
pub struct Maps {
    reader: MapReader,
    config: Mapped<Config>,
    deadlines: Mapped<Deadline>,
    heartbeat: Mapped<u64>,
    due: Mapped<Due>,
    /// State changes as they happen, until the engine takes them.
    events: Option<RingBuf<MapData>>,
}

impl Maps {
    /// Takes the maps of a loaded object. `slots`: how many deadlines there are.
    ///
    /// # Errors
    /// See [`MapError`].
    pub(super) fn take(object: &mut Object, slots: u32) -> Result<Self, MapError> {
        // Those that are only mapped stay open where they are: a program that is loaded later
        // refers to every map by its file descriptor.
        let config = mapped(object, name::CONFIG, 1)?;
        let deadlines = mapped(object, name::DEADLINES, slots)?;
        let due = mapped(object, name::DUE, MAX_DUE)?;
        let heartbeat = mapped(object, name::HEARTBEAT, 1)?;
        let mut map = |name| object.take_map(name).ok_or(MapError::Layout(name));
        Ok(Self {
            config,
            deadlines,
            due,
            heartbeat,
            reader: MapReader {
                sessions: HashMap::try_from(map(name::SESSIONS)?)?,
                peers: HashMap::try_from(map(name::PEERS)?)?,
                locals: HashMap::try_from(map(name::LOCALS)?)?,
                counters: PerCpuArray::try_from(map(name::COUNTERS)?)?,
                heartbeat: Array::try_from(map(name::HEARTBEAT)?)?,
                confined: HashMap::try_from(map(name::CONFINED)?)?,
            },
            events: Some(RingBuf::try_from(map(name::EVENTS)?)?),
        })
    }

    /// Returns the access of threads that only read.
    pub const fn reader(&self) -> &MapReader {
        &self.reader
    }

    /// Hands over the ring of state changes, once.
    pub(super) const fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.events.take()
    }

    /// Replaces the configuration.
    pub fn set_config(&self, config: Config) {
        self.config.store(0, config);
    }

    /// Says that the agent is alive.
    pub fn beat(&self, now_ns: u64) {
        self.heartbeat.store(0, now_ns);
    }

    /// Gives a slot to a session that is about to be inserted, and that our clock is to ask for.
    pub fn prepare_slot(&self, slot: u32, key: SessionKey, now_ns: u64) {
        self.deadlines.store(
            slot,
            Deadline {
                deadline_ns: NEVER_NS,
                key,
                next_due: due_now_stamp(now_ns),
            },
        );
    }

    /// Returns the time before which our clock need not ask for a session, ns; none if it is to ask now.
    pub(crate) fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64> {
        let deadline = self.deadlines.at(slot)?;
        // SAFETY: within the mapping; one load of what kernel programs store as a whole.
        let stamp = unsafe { (&raw const (*deadline).next_due).read_volatile() };
        ahead_ns(stamp, now_ns)
    }

    /// Stores a session's deadline into its slot, which the timers look at.
    pub(super) fn set_slot(&self, entry: &SessionEntry) {
        self.deadlines.store(
            entry.slot,
            Deadline {
                deadline_ns: entry.scan_deadline_ns(),
                key: entry.key,
                next_due: due_now_stamp(now_ns()),
            },
        );
    }

    /// Inserts a session.
    ///
    /// # Errors
    /// If there is one with that peer by that interface already, or the map is full.
    pub fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError> {
        let value = as_value(entry);
        Ok(self
            .reader
            .sessions
            .insert(as_key(&entry.key), value, NOEXIST)?)
    }

    /// Deletes the session with the key's peer by its interface. That it is gone already is no error.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn delete_session(&mut self, key: &SessionKey) -> Result<(), MapError> {
        #[cfg(feature = "faults")]
        crate::faults::before_session_delete().map_err(aya::maps::MapError::from)?;
        gone_is_fine(self.reader.sessions.remove(&as_key(key)))
    }

    /// Deletes an entry that this version cannot read. That it is gone already is no error.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn discard(&mut self, unreadable: &Unreadable) -> Result<(), MapError> {
        let of = |map| move |_| MapError::Layout(map);
        let key = unreadable.key.as_slice();
        gone_is_fine(if unreadable.map == name::PEERS {
            let key = key.try_into().map_err(of(name::PEERS))?;
            self.reader.peers.remove(&key)
        } else {
            let key = key.try_into().map_err(of(name::SESSIONS))?;
            self.reader.sessions.remove(&key)
        })
    }

    /// Writes a peer.
    ///
    /// # Errors
    /// If the map is full.
    pub fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError> {
        let key: [u8; size_of::<PeerKey>()] = zerocopy::transmute!(*key);
        let value: [u8; size_of::<Peer>()] = zerocopy::transmute!(*peer);
        Ok(self.reader.peers.insert(key, value, 0)?)
    }

    /// Says which block of counters a local address has.
    ///
    /// # Errors
    /// If the map is full.
    pub fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError> {
        let key: [u8; size_of::<LocalKey>()] = zerocopy::transmute!(*key);
        Ok(self.reader.locals.insert(key, block, 0)?)
    }

    /// Forgets a local address. That it is gone already is no error.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn delete_local(&mut self, key: &LocalKey) -> Result<(), MapError> {
        gone_is_fine(self.reader.locals.remove(&zerocopy::transmute!(*key)))
    }

    /// Keeps packets from an address of this interface from leaving by another one.
    ///
    /// # Errors
    /// If the map is full.
    pub fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError> {
        let key: [u8; size_of::<Confined>()] = zerocopy::transmute!(*key);
        Ok(self.reader.confined.insert(key, ifindex, 0)?)
    }

    /// Lets packets from an address leave by any interface. That they may already is no error.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn release(&mut self, key: &Confined) -> Result<(), MapError> {
        gone_is_fine(self.reader.confined.remove(&zerocopy::transmute!(*key)))
    }

    /// Sets a block of counters to zero on every CPU: its address is gone, another gets it.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn clear_counters(&mut self, block: u32) -> Result<(), MapError> {
        let cpus = self.reader.counters.get(&block, 0)?.len();
        let zero = vec![[0_u8; size_of::<Counters>()]; cpus];
        let values = aya::maps::PerCpuValues::try_from(zero)
            .map_err(|_| MapError::Layout(name::COUNTERS))?;
        Ok(self.reader.counters.set(block, values, 0)?)
    }

    /// Fills an entry of the transmit program's list.
    pub(super) fn set_due(&self, index: u32, due: Due) {
        self.due.store(index, due);
    }

    /// Reads back what the transmit program wrote: exit and next due time.
    pub(super) fn due(&self, index: u32) -> Option<(u32, u64)> {
        let due = self.due.at(index)?;
        // SAFETY: within the mapping; the program run that writes there has returned.
        unsafe {
            let exit = (&raw const (*due).exit).read_volatile();
            Some((exit, (&raw const (*due).next_due_ns).read_volatile()))
        }
    }
}

fn as_key(key: &SessionKey) -> [u8; size_of::<Destination>()] {
    zerocopy::transmute!(key.destination())
}

fn as_value(entry: &SessionEntry) -> [u8; size_of::<SessionEntry>()] {
    zerocopy::transmute!(*entry)
}
