//! The kernel programs in maps of their own, attached to nothing: a test runs them by
//! [`test_run`](crate::bpf::test_run) and writes what an agent would.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfLoader};
use dz_agent::datapath::{MAPS, MapReader, OBJECT};
use dz_common::control::{OP_START_GROUP, REQUEST_OFFSET, Request};
use dz_common::counters::{Counter, Counters};
use dz_common::headers::DATAGRAM_LEN;
use dz_common::map::{
    Config, Deadline, Destination, Due, Event, Group, LocalKey, SLOTS_PER_GROUP, SessionEntry,
    SessionKey, name,
};
use etherparse::EtherType;
use zerocopy::{IntoBytes, TryFromBytes};

use crate::bpf::test_run;
use crate::bpffs;
use crate::frame::ethernet;
use crate::load;

/// Deadline slots: one timer's.
pub const SLOTS: u32 = SLOTS_PER_GROUP;
/// `BPF_NOEXIST` of the kernel's `bpf.h`.
const NOEXIST: u64 = 1;
/// `__sk_buff` up to and with `cb[]`, and where that begins.
const SKB_WORDS: usize = 48;
const SKB_CB: usize = 12;
/// `BPF_F_LOCK`
const LOCKED: u64 = 4;

type SessionMap = HashMap<MapData, [u8; size_of::<Destination>()], [u8; size_of::<SessionEntry>()]>;

/// Programs and maps.
pub struct Kernel {
    reader: MapReader,
    sessions: SessionMap,
    deadlines: Array<MapData, [u8; size_of::<Deadline>()]>,
    config: Array<MapData, [u8; size_of::<Config>()]>,
    heartbeat: Array<MapData, u64>,
    locals: HashMap<MapData, [u8; size_of::<LocalKey>()], u32>,
    groups: Array<MapData, [u8; size_of::<Group>()]>,
    due: Array<MapData, [u8; size_of::<Due>()]>,
    events: RingBuf<MapData>,
    xdp: ProgramFd,
    ethernet: ProgramFd,
    layer3: ProgramFd,
    gate: ProgramFd,
    control: ProgramFd,
    transmit: ProgramFd,
    // They hold programs and maps.
    _ebpf: Ebpf,
    _pins: bpffs::Directory,
}

impl Kernel {
    /// Loads the object that the agent embeds, into maps of its own with room for so many sessions
    /// and the slots of one group, and starts the timer.
    ///
    /// # Errors
    /// No privilege, or the verifier refuses a program.
    pub fn load(label: &str, sessions: u32) -> anyhow::Result<Self> {
        let kernel = Self::without_timer(label, sessions)?;
        start_timer(kernel.control.as_fd())?;
        Ok(kernel)
    }

    /// The same without the timer: nobody looks at deadlines.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn without_timer(label: &str, sessions: u32) -> anyhow::Result<Self> {
        let pins = bpffs::Directory::new(label)?;
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, pins.path().join(name));
        }
        loader.map_max_entries(name::DEADLINES, SLOTS);
        loader.map_max_entries(name::PEERS, 1);
        loader.map_max_entries(name::SESSIONS, sessions);
        let mut ebpf = load::object(&mut loader, OBJECT)?;
        let ethernet = classifier(&mut ebpf, "dz_tc_eth")?;
        let layer3 = classifier(&mut ebpf, "dz_tc_l3")?;
        let control = classifier(&mut ebpf, "dz_control")?;
        let transmit = classifier(&mut ebpf, "dz_transmit")?;
        let open = |name: &str| -> anyhow::Result<Map> {
            let data = MapData::from_pin(pins.path().join(name))?;
            Ok(Map::from_map_data(data)?)
        };
        Ok(Self {
            reader: MapReader::from_pins(pins.path())?,
            sessions: HashMap::try_from(open(name::SESSIONS)?)?,
            deadlines: Array::try_from(open(name::DEADLINES)?)?,
            config: Array::try_from(open(name::CONFIG)?)?,
            heartbeat: Array::try_from(open(name::HEARTBEAT)?)?,
            locals: HashMap::try_from(open(name::LOCALS)?)?,
            groups: Array::try_from(open(name::GROUPS)?)?,
            due: Array::try_from(open(name::DUE)?)?,
            events: RingBuf::try_from(open(name::EVENTS)?)?,
            xdp: load::xdp(&mut ebpf, "dz_xdp")?.fd()?.try_clone()?,
            ethernet,
            layer3,
            gate: classifier(&mut ebpf, "dz_gate_eth")?,
            control,
            transmit,
            _ebpf: ebpf,
            _pins: pins,
        })
    }

    /// Replaces the configuration.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_config(&mut self, config: &Config) -> anyhow::Result<()> {
        let value: [u8; size_of::<Config>()] = zerocopy::transmute!(*config);
        Ok(self.config.set(0, value, 0)?)
    }

    /// Says when the agent was last alive, ns.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_beat(&mut self, beat_ns: u64) -> anyhow::Result<()> {
        Ok(self.heartbeat.set(0, beat_ns, 0)?)
    }

    /// Says which block of counters a local address has.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_local(&mut self, key: &LocalKey, block: u32) -> anyhow::Result<()> {
        let key: [u8; size_of::<LocalKey>()] = zerocopy::transmute!(*key);
        Ok(self.locals.insert(key, block, 0)?)
    }

    /// Puts a session into a state. An update of a live entry replaces it with a new one, like a
    /// deletion and an insertion; no program runs meanwhile that could lose by it.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_session(&mut self, key: &SessionKey, entry: &SessionEntry) -> anyhow::Result<()> {
        let value: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(*entry);
        Ok(self.sessions.insert(as_key(key), value, 0)?)
    }

    /// Inserts a session, as an agent does.
    ///
    /// # Errors
    /// There is one of that key, or no room.
    pub fn insert_session(&mut self, entry: &SessionEntry) -> anyhow::Result<()> {
        let value: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(*entry);
        let key = as_key(&entry.key);
        Ok(self.sessions.insert(key, value, NOEXIST)?)
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// There is none of that key.
    pub fn delete_session(&mut self, key: &SessionKey) -> anyhow::Result<()> {
        Ok(self.sessions.remove(&as_key(key))?)
    }

    /// Writes a slot, as an agent does: without any lock.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn set_deadline(&mut self, slot: u32, deadline: &Deadline) -> anyhow::Result<()> {
        let value: [u8; size_of::<Deadline>()] = zerocopy::transmute!(*deadline);
        Ok(self.deadlines.set(slot, value, 0)?)
    }

    /// The session where that of a key is found, copied under its lock. It may say that it is another.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn session(&self, key: &SessionKey) -> anyhow::Result<Option<SessionEntry>> {
        match self.sessions.get(&as_key(key), LOCKED) {
            Ok(value) => read(&value).map(Some),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Every session, by where it is found.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn sessions(&self) -> anyhow::Result<BTreeMap<Destination, SessionEntry>> {
        let mut sessions = BTreeMap::new();
        for item in self.sessions.iter() {
            let (key, value) = item?;
            sessions.insert(read(&key)?, read(&value)?);
        }
        Ok(sessions)
    }

    /// A slot. Programs may be writing it.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn deadline(&self, slot: u32) -> anyhow::Result<Deadline> {
        read(&self.deadlines.get(&slot, 0)?)
    }

    /// The timer's next and last firing.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn group(&self) -> anyhow::Result<Group> {
        read(&self.groups.get(&0, 0)?)
    }

    /// Runs `dz_control`; returns its exit.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn command(&self, request: &Request) -> anyhow::Result<u32> {
        command(self.control.as_fd(), request)
    }

    /// Runs `dz_transmit` for one session; returns the entry and the frame as they are afterwards.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn transmit(&mut self, due: &Due) -> anyhow::Result<(Due, Vec<u8>)> {
        let value: [u8; size_of::<Due>()] = zerocopy::transmute!(*due);
        self.due.set(0, value, 0)?;
        let frame = ethernet([0; 6], [0; 6], EtherType::IPV4, &[0; DATAGRAM_LEN], false);
        let mut context = [0; SKB_WORDS];
        context[SKB_CB] = 1;
        let mut after = [0; 256];
        let ran = test_run(self.transmit.as_fd(), &frame, &context, &mut after)
            .context("running dz_transmit")?;
        let after = after.get(..ran.len).context("a longer frame")?;
        Ok((read(&self.due.get(&0, 0)?)?, after.to_vec()))
    }

    /// `dz_xdp`.
    pub fn xdp(&self) -> BorrowedFd<'_> {
        self.xdp.as_fd()
    }

    /// `dz_tc_eth`.
    pub fn ethernet(&self) -> BorrowedFd<'_> {
        self.ethernet.as_fd()
    }

    /// `dz_tc_l3`.
    pub fn layer3(&self) -> BorrowedFd<'_> {
        self.layer3.as_fd()
    }

    /// `dz_gate_eth`.
    pub fn gate(&self) -> BorrowedFd<'_> {
        self.gate.as_fd()
    }

    /// A block of counters, summed over CPUs.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn counters(&self, block: u32) -> anyhow::Result<Counters> {
        Ok(self.reader.counters(block)?)
    }

    /// The events since the last call.
    ///
    /// # Errors
    /// As `bpf(2)`.
    pub fn events(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.push(read(&item)?);
        }
        Ok(events)
    }
}

fn as_key(key: &SessionKey) -> [u8; size_of::<Destination>()] {
    zerocopy::transmute!(key.destination())
}

/// A timer must have been initialised before a receipt may start it.
fn start_timer(control: BorrowedFd<'_>) -> anyhow::Result<()> {
    let request = Request {
        op: OP_START_GROUP,
        index: 0,
        ..Request::NONE
    };
    let exit = command(control, &request)?;
    ensure!(
        exit == Counter::ControlDone as u32,
        "the timer does not start: exit {exit}"
    );
    Ok(())
}

fn command(control: BorrowedFd<'_>, request: &Request) -> anyhow::Result<u32> {
    let mut frame = [0; REQUEST_OFFSET + size_of::<Request>()];
    frame[REQUEST_OFFSET..].copy_from_slice(request.as_bytes());
    let ran = test_run(control, &frame, &[], &mut [0; 256]).context("running dz_control")?;
    Ok(ran.verdict)
}

fn classifier(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<ProgramFd> {
    Ok(load::classifier(ebpf, name)?.fd()?.try_clone()?)
}

fn read<T: TryFromBytes>(bytes: &[u8]) -> anyhow::Result<T> {
    match T::try_read_from_bytes(bytes) {
        Ok(value) => Ok(value),
        Err(_) => bail!(
            "the kernel stored what is no {}",
            std::any::type_name::<T>()
        ),
    }
}
