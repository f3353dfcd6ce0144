//! The kernel programs in maps of their own, run one frame at a time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfLoader};
use dz_agent::datapath::{MapReader, OBJECT};
use dz_common::control::{OP_START_GROUP, REQUEST_OFFSET, Request};
use dz_common::counters::{Counter, Counters};
use dz_common::map::{
    Config, Deadline, Event, LocalKey, SLOTS_PER_GROUP, SessionEntry, SessionKey, name,
};
use dz_tests::bpffs;
use zerocopy::{IntoBytes, TryFromBytes};

use crate::bpf::test_run;
use crate::hook::Hook;
use crate::model::Arrival;
use crate::trampoline::{FAILED, Trampoline};

/// Deadline slots: one timer's.
pub(crate) const SLOTS: u32 = SLOTS_PER_GROUP;
/// Room for any frame that is tried.
const ROOM: usize = 4_096;
/// Ethernet and IPv6 header: no longer packet is refused for its length.
const TC_SHORTEST: usize = 54;
/// `__sk_buff` up to and with `cb[]`, and the index of its `ifindex`.
const SKB_WORDS: usize = 48;
const SKB_IFINDEX: usize = 10;

const MAPS: [&str; 10] = [
    name::CONFIG,
    name::COUNTERS,
    name::DEADLINES,
    name::DUE,
    name::EVENTS,
    name::GROUPS,
    name::HEARTBEAT,
    name::LOCALS,
    name::PEERS,
    name::SESSIONS,
];

type SessionMap = HashMap<MapData, [u8; size_of::<SessionKey>()], [u8; size_of::<SessionEntry>()]>;

/// Programs and maps.
pub(crate) struct Kernel {
    reader: MapReader,
    sessions: SessionMap,
    deadlines: Array<MapData, [u8; size_of::<Deadline>()]>,
    config: Array<MapData, [u8; size_of::<Config>()]>,
    heartbeat: Array<MapData, u64>,
    locals: HashMap<MapData, [u8; size_of::<LocalKey>()], u32>,
    events: RingBuf<MapData>,
    xdp: ProgramFd,
    ethernet: ProgramFd,
    layer3: ProgramFd,
    tagged: Trampoline,
    layer3_host: Trampoline,
    after: Vec<u8>,
    // They hold programs and maps.
    _ebpf: Ebpf,
    _pins: bpffs::Directory,
}

impl Kernel {
    /// Loads the object that the agent embeds, into maps of its own, and starts the timer.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let pins = bpffs::Directory::new("differential")?;
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, pins.path().join(name));
        }
        for name in [name::DEADLINES, name::SESSIONS, name::PEERS] {
            loader.map_max_entries(name, SLOTS);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let ethernet = classifier(&mut ebpf, "dz_tc_eth")?;
        let layer3 = classifier(&mut ebpf, "dz_tc_l3")?;
        let control = classifier(&mut ebpf, "dz_control")?;
        let open = |name: &str| -> anyhow::Result<Map> {
            let data = MapData::from_pin(pins.path().join(name))?;
            Ok(Map::from_map_data(data)?)
        };
        let kernel = Self {
            reader: MapReader::from_pins(pins.path())?,
            sessions: HashMap::try_from(open(name::SESSIONS)?)?,
            deadlines: Array::try_from(open(name::DEADLINES)?)?,
            config: Array::try_from(open(name::CONFIG)?)?,
            heartbeat: Array::try_from(open(name::HEARTBEAT)?)?,
            locals: HashMap::try_from(open(name::LOCALS)?)?,
            events: RingBuf::try_from(open(name::EVENTS)?)?,
            xdp: xdp(&mut ebpf)?,
            tagged: Trampoline::tagged(ethernet.as_fd()).context("program before dz_tc_eth")?,
            layer3_host: Trampoline::to_host(layer3.as_fd()).context("program before dz_tc_l3")?,
            ethernet,
            layer3,
            after: vec![0; ROOM],
            _ebpf: ebpf,
            _pins: pins,
        };
        start_timer(control.as_fd())?;
        Ok(kernel)
    }

    /// Runs the program of a hook; returns its verdict and the frame afterwards. None if the kernel
    /// will not run it: as TC packets newer kernels refuse IP packets without a whole IP header.
    pub(crate) fn run(&mut self, arrival: &Arrival) -> anyhow::Result<Option<(u32, Vec<u8>)>> {
        let Arrival { ifindex, frame, .. } = arrival;
        let mut skb = [0_u32; SKB_WORDS];
        skb[SKB_IFINDEX] = *ifindex;
        // `xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let md = [0, frame.len() as u32, 0, *ifindex, 0, 0];
        let (program, context): (BorrowedFd<'_>, &[u32]) = match arrival.hook {
            Hook::TcEthernet => (self.ethernet.as_fd(), &skb),
            Hook::TcTagged => (self.tagged.as_fd(), &skb),
            Hook::TcLayer3 => (self.layer3_host.as_fd(), &skb),
            Hook::TcLayer3NotHost => (self.layer3.as_fd(), &skb),
            Hook::Xdp => (self.xdp.as_fd(), &md),
        };
        let ran = match test_run(program, frame, context, &mut self.after) {
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL)
                    && arrival.hook != Hook::Xdp
                    && frame.len() < TC_SHORTEST =>
            {
                return Ok(None);
            }
            ran => ran.with_context(|| format!("BPF_PROG_TEST_RUN with {} bytes", frame.len()))?,
        };
        ensure!(ran.verdict != FAILED, "the tail call failed");
        Ok(Some((ran.verdict, self.after[..ran.len].to_vec())))
    }

    pub(crate) fn set_config(&mut self, config: &Config) -> anyhow::Result<()> {
        let value: [u8; size_of::<Config>()] = zerocopy::transmute!(*config);
        Ok(self.config.set(0, value, 0)?)
    }

    pub(crate) fn set_beat(&mut self, beat_ns: u64) -> anyhow::Result<()> {
        Ok(self.heartbeat.set(0, beat_ns, 0)?)
    }

    pub(crate) fn set_local(&mut self, key: &LocalKey, block: u32) -> anyhow::Result<()> {
        let key: [u8; size_of::<LocalKey>()] = zerocopy::transmute!(*key);
        Ok(self.locals.insert(key, block, 0)?)
    }

    /// Puts a session into a state. An update of a live entry replaces it with a new one, like a
    /// deletion and an insertion; no program runs meanwhile that could lose by it.
    pub(crate) fn set_session(
        &mut self,
        key: &SessionKey,
        entry: &SessionEntry,
    ) -> anyhow::Result<()> {
        let key: [u8; size_of::<SessionKey>()] = zerocopy::transmute!(*key);
        let value: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(*entry);
        Ok(self.sessions.insert(key, value, 0)?)
    }

    pub(crate) fn set_deadline(&mut self, slot: u32, deadline: &Deadline) -> anyhow::Result<()> {
        let value: [u8; size_of::<Deadline>()] = zerocopy::transmute!(*deadline);
        Ok(self.deadlines.set(slot, value, 0)?)
    }

    pub(crate) fn session(&self, key: &SessionKey) -> anyhow::Result<Option<SessionEntry>> {
        Ok(self.reader.session(key)?)
    }

    /// Every session, by the key under which it is found.
    pub(crate) fn sessions(&self) -> anyhow::Result<BTreeMap<SessionKey, SessionEntry>> {
        let mut sessions = BTreeMap::new();
        for item in self.sessions.iter() {
            let (key, value) = item?;
            sessions.insert(read(&key)?, read(&value)?);
        }
        Ok(sessions)
    }

    pub(crate) fn deadline(&self, slot: u32) -> anyhow::Result<Deadline> {
        read(&self.deadlines.get(&slot, 0)?)
    }

    pub(crate) fn counters(&self, block: u32) -> anyhow::Result<Counters> {
        Ok(self.reader.counters(block)?)
    }

    /// The events since the last call.
    pub(crate) fn events(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.push(read(&item)?);
        }
        Ok(events)
    }
}

/// A timer must have been initialised before a receipt may start it.
fn start_timer(control: BorrowedFd<'_>) -> anyhow::Result<()> {
    let mut frame = [0; REQUEST_OFFSET + size_of::<Request>()];
    let request = Request {
        op: OP_START_GROUP,
        index: 0,
        ..Request::NONE
    };
    frame[REQUEST_OFFSET..].copy_from_slice(request.as_bytes());
    let ran = test_run(control, &frame, &[], &mut [0; ROOM]).context("running dz_control")?;
    ensure!(
        ran.verdict == Counter::ControlDone as u32,
        "the timer does not start: exit {}",
        ran.verdict
    );
    Ok(())
}

fn classifier(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<ProgramFd> {
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let program: &mut aya::programs::SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program.fd()?.try_clone()?)
}

fn xdp(ebpf: &mut Ebpf) -> anyhow::Result<ProgramFd> {
    let program = ebpf.program_mut("dz_xdp").context("dz_xdp")?;
    let program: &mut aya::programs::Xdp = program.try_into()?;
    program.load()?;
    Ok(program.fd()?.try_clone()?)
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
