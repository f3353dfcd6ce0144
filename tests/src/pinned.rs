//! Pinned maps of an agent that is dead, to be written as it may have left them.

use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData};
use dz_agent::datapath::MapReader;
use dz_common::map::{
    Deadline, Destination, LocalKey, Peer, PeerKey, SessionEntry, SessionKey, name,
};
use zerocopy::TryFromBytes;

/// The maps in a pin directory.
pub struct Pinned {
    reader: MapReader,
    pin_dir: PathBuf,
}

impl Pinned {
    /// Opens them.
    ///
    /// # Errors
    /// One is not there.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            reader: MapReader::from_pins(pin_dir)?,
            pin_dir: pin_dir.to_owned(),
        })
    }

    /// For looking.
    pub const fn reader(&self) -> &MapReader {
        &self.reader
    }

    /// Writes a peer.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_peer(&self, key: &PeerKey, peer: &Peer) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<PeerKey>()], [u8; size_of::<Peer>()]> =
            HashMap::try_from(self.map(name::PEERS)?)?;
        let key: [u8; size_of::<PeerKey>()] = zerocopy::transmute!(*key);
        let value: [u8; size_of::<Peer>()] = zerocopy::transmute!(*peer);
        Ok(map.insert(key, value, 0)?)
    }

    /// Deletes a peer.
    ///
    /// # Errors
    /// There is none of that key.
    pub fn delete_peer(&self, key: &PeerKey) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<PeerKey>()], [u8; size_of::<Peer>()]> =
            HashMap::try_from(self.map(name::PEERS)?)?;
        let key: [u8; size_of::<PeerKey>()] = zerocopy::transmute!(*key);
        Ok(map.remove(&key)?)
    }

    /// Writes a session; one of that key is replaced, as by a deletion and an insertion.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_session(&self, entry: &SessionEntry) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<Destination>()], [u8; size_of::<SessionEntry>()]> =
            HashMap::try_from(self.map(name::SESSIONS)?)?;
        let key: [u8; size_of::<Destination>()] = zerocopy::transmute!(entry.key.destination());
        let value: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(*entry);
        Ok(map.insert(key, value, 0)?)
    }

    /// Writes a session with one byte of its value changed: to an enumerator that nobody knows, say.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn spoil_session(
        &self,
        entry: &SessionEntry,
        offset: usize,
        byte: u8,
    ) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<Destination>()], [u8; size_of::<SessionEntry>()]> =
            HashMap::try_from(self.map(name::SESSIONS)?)?;
        let key: [u8; size_of::<Destination>()] = zerocopy::transmute!(entry.key.destination());
        let mut value: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(*entry);
        value[offset] = byte;
        Ok(map.insert(key, value, 0)?)
    }

    /// Writes a peer with one byte of its value changed.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn spoil_peer(
        &self,
        key: &PeerKey,
        peer: &Peer,
        offset: usize,
        byte: u8,
    ) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<PeerKey>()], [u8; size_of::<Peer>()]> =
            HashMap::try_from(self.map(name::PEERS)?)?;
        let key: [u8; size_of::<PeerKey>()] = zerocopy::transmute!(*key);
        let mut value: [u8; size_of::<Peer>()] = zerocopy::transmute!(*peer);
        value[offset] = byte;
        Ok(map.insert(key, value, 0)?)
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// There is none of that key.
    pub fn delete_session(&self, key: &SessionKey) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<Destination>()], [u8; size_of::<SessionEntry>()]> =
            HashMap::try_from(self.map(name::SESSIONS)?)?;
        let key: [u8; size_of::<Destination>()] = zerocopy::transmute!(key.destination());
        Ok(map.remove(&key)?)
    }

    /// Notes a local address, with its block of counters.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_local(&self, key: &LocalKey, block: u32) -> anyhow::Result<()> {
        let mut map: HashMap<_, [u8; size_of::<LocalKey>()], u32> =
            HashMap::try_from(self.map(name::LOCALS)?)?;
        let key: [u8; size_of::<LocalKey>()] = zerocopy::transmute!(*key);
        Ok(map.insert(key, block, 0)?)
    }

    /// A deadline slot.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn deadline(&self, slot: u32) -> anyhow::Result<Deadline> {
        let map: Array<_, [u8; size_of::<Deadline>()]> =
            Array::try_from(self.map(name::DEADLINES)?)?;
        Deadline::try_read_from_bytes(&map.get(&slot, 0)?)
            .map_err(|_| anyhow::anyhow!("slot {slot} holds no deadline"))
    }

    /// Writes a deadline slot.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_deadline(&self, slot: u32, deadline: &Deadline) -> anyhow::Result<()> {
        let mut map: Array<_, [u8; size_of::<Deadline>()]> =
            Array::try_from(self.map(name::DEADLINES)?)?;
        let value: [u8; size_of::<Deadline>()] = zerocopy::transmute!(*deadline);
        Ok(map.set(slot, value, 0)?)
    }

    fn map(&self, name: &str) -> anyhow::Result<Map> {
        let data = MapData::from_pin(self.pin_dir.join(name))?;
        Ok(Map::from_map_data(data)?)
    }
}
