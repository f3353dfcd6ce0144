//! What the gate costs: instructions that the verifier walks, and time per packet above that of a
//! program that does nothing. Printed, not judged: machines differ.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use dz_agent::datapath::OBJECT;
use dz_common::LIVENESS_PORT;
use dz_common::gate::Action;
use dz_common::map::{ABI_VERSION, Config, Gate, GateKey, SessionKey, name};
use dz_common::packet::{State, Version};
use dz_common::session::{Session, Timers};
use dz_tests::bpf::{load_classifier, test_run_time};
use dz_tests::frame::{Datagram, ETHERTYPE_IPV4, ethernet};

/// Sessions in the maps.
const SESSIONS: u32 = 10_000;
/// Different destinations, and runs for each.
const FRAMES: u32 = 500;
const REPEAT: u32 = 4_000;
/// `lo`, which a test run's packets belong to.
const IFINDEX: u32 = 1;
const LOCAL: [u8; 4] = [10, 1, 0, 1];

pub(crate) fn printed() -> Result<()> {
    let pins = dz_tests::bpffs::Directory::new("gate-cost")?;
    let mut loader = aya::EbpfLoader::new();
    for map in dz_agent::datapath::MAPS {
        loader.map_pin_path(map, pins.path().join(map));
    }
    for map in [name::SESSIONS, name::GATE] {
        loader.map_max_entries(map, 16_384);
    }
    for map in [name::PEERS, name::DEADLINES] {
        loader.map_max_entries(map, 2_048);
    }
    let mut ebpf = loader.load(OBJECT)?;
    for program in ["dz_gate_l3", "dz_gate_eth", "dz_tc_l3", "dz_tc_eth"] {
        let classifier: &mut SchedClassifier = ebpf
            .program_mut(program)
            .context("no program")?
            .try_into()?;
        classifier.load()?;
        let info = classifier.info()?;
        println!(
            "{program}: {:?} instructions walked by the verifier, {:?} bytes translated",
            info.verified_instruction_count(),
            info.size_translated()
        );
    }
    fill(pins.path())?;
    let gate: &SchedClassifier = ebpf.program("dz_gate_eth").context("no gate")?.try_into()?;
    // BPF_MOV64_IMM(r0, -1); BPF_EXIT
    let empty = load_classifier(&[0xffff_ffff_0000_00b7, 0x95])?;
    let known = |index: u32| Ipv4Addr::from(u32::from_be_bytes([10, 2, 0, 0]) + index * 19);
    let unknown = |index: u32| Ipv4Addr::from(u32::from_be_bytes([10, 3, 0, 0]) + index * 19);
    let nothing = time(empty.as_fd(), known)?;
    let no_session = time(gate.fd()?.as_fd(), unknown)?;
    let up = time(gate.fd()?.as_fd(), known)?;
    println!(
        "{SESSIONS} sessions, ns per packet: empty program {nothing:.1}; gate_no_session \
         {no_session:.1} (+{:.1}); gate_up {up:.1} (+{:.1})",
        no_session - nothing,
        up - nothing
    );
    Ok(())
}

fn time(program: BorrowedFd<'_>, to: impl Fn(u32) -> Ipv4Addr) -> Result<f64> {
    let mut sum = 0_u64;
    for index in 0..FRAMES {
        let (from, to) = (
            SocketAddrV4::new(LOCAL.into(), 1_000),
            SocketAddrV4::new(to(index), 9_000),
        );
        let packet = Datagram::new(from, to, *b"payload of some bytes").build();
        let frame = ethernet([2; 6], [4; 6], ETHERTYPE_IPV4, &packet, true);
        sum += u64::from(test_run_time(program, &frame, REPEAT)?);
    }
    Ok(sum as f64 / f64::from(FRAMES))
}

fn fill(pins: &std::path::Path) -> Result<()> {
    use aya::maps::{Array, HashMap, Map, MapData};
    use dz_common::map::{NEVER_NS, SessionEntry, bpf_spin_lock};
    let open = |name: &str| -> Result<Map> {
        Ok(Map::from_map_data(MapData::from_pin(pins.join(name))?)?)
    };
    let mut config: Array<_, [u8; size_of::<Config>()]> = Array::try_from(open(name::CONFIG)?)?;
    let value = Config {
        abi_version: ABI_VERSION,
        port: LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: Version::new([0, 1, 0, 0]),
        groups: 1,
        grace_ns: NEVER_NS,
        when_down: Action::Reroute,
        when_never_up: Action::Pass,
        reserved: [0; 6],
    };
    let value: [u8; size_of::<Config>()] = zerocopy::transmute!(value);
    config.set(0, value, 0)?;
    let mut sessions: HashMap<_, [u8; size_of::<SessionKey>()], [u8; size_of::<SessionEntry>()]> =
        HashMap::try_from(open(name::SESSIONS)?)?;
    let mut gates: HashMap<_, [u8; size_of::<GateKey>()], [u8; size_of::<Gate>()]> =
        HashMap::try_from(open(name::GATE)?)?;
    for index in 0..SESSIONS {
        let peer = (u32::from_be_bytes([10, 2, 0, 0]) + index).to_be_bytes();
        let key = SessionKey {
            ifindex: IFINDEX,
            local: LOCAL,
            peer,
        };
        let mut session = Session::new(Timers::DEFAULT, 7, 1);
        session.state = State::Up;
        session.ups = 1;
        let entry = SessionEntry {
            lock: bpf_spin_lock { val: 0 },
            slot: 0,
            generation: 1,
            block: 1,
            key,
            random: 1,
            received: 0,
            answered: 0,
            originated: 0,
            last_seen_ns: 0,
            session,
        };
        let key: [u8; size_of::<SessionKey>()] = zerocopy::transmute!(key);
        let entry: [u8; size_of::<SessionEntry>()] = zerocopy::transmute!(entry);
        sessions.insert(key, entry, 0)?;
        let (key, gate) = (
            GateKey {
                ifindex: IFINDEX,
                dst: peer,
            },
            Gate {
                local: LOCAL,
                detour: 2,
            },
        );
        let key: [u8; size_of::<GateKey>()] = zerocopy::transmute!(key);
        let gate: [u8; size_of::<Gate>()] = zerocopy::transmute!(gate);
        gates.insert(key, gate, 0)?;
    }
    Ok(())
}
