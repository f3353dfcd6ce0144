//! The kernel part of version 0.1.0 as it was tagged last, with maps of layout 4: its own compiled
//! programs (`tests/data/layout-4.o`), which believe more than the present ones do, and what its agent
//! wrote. What is the same in layout 1 is taken from there.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use dz_tests::agent::Home;
use dz_tests::harness::Requirement;
use dz_tests::load;
use dz_tests::netns::Netns;
use dz_tests::wait::monotonic_ns;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout_1::{
    AllSeen, BLOCK, GRACE_NS, Layout, LocalKey, NEVER_NS, SLOTS, SLOTS_PER_GROUP, STATE_DOWN,
    STATE_UP, Served, Session, SessionKey, attach, bytes, open, peer_key, peer_value, start_timers,
    timers,
};
use crate::witness::Seen;

pub(crate) const LAYOUT: Layout = Layout { leave, seen };

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../data/layout-4.o");

const MAPS: [&str; 11] = [
    "dz_config",
    "dz_confined",
    "dz_counters",
    "dz_deadlines",
    "dz_due",
    "dz_events",
    "dz_groups",
    "dz_heartbeat",
    "dz_locals",
    "dz_peers",
    "dz_sessions",
];
/// `Action::Reroute` and `Action::Pass`.
const ACTIONS: [u8; 2] = [2, 0];

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
struct Destination {
    ifindex: u32,
    peer: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
struct SessionEntry {
    lock: u32,
    detour: u32,
    slot: u32,
    generation: u32,
    block: u32,
    key: SessionKey,
    random: u32,
    reserved: u32,
    received: u64,
    answered: u64,
    originated: u64,
    last_seen_ns: u64,
    session: Session,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
struct Deadline {
    deadline_ns: u64,
    key: SessionKey,
    next_due: u32,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
struct Config {
    abi_version: u32,
    port: u16,
    unknown_pass: u8,
    ignore_peer_passive: u8,
    version: [u8; 4],
    groups: u32,
    grace_ns: u64,
    actions: [u8; 2],
    reserved: [u8; 6],
}

const _: () = {
    assert!(size_of::<SessionEntry>() == 200);
    assert!(size_of::<Deadline>() == 24);
    assert!(size_of::<Config>() == 32);
};

/// The types of its maps, as an agent keeps them for later versions.
pub(crate) fn types() -> Result<Vec<u8>> {
    let object = aya_obj::Object::parse(OBJECT)?;
    Ok(object.btf.context("no BTF")?.to_bytes())
}

type Sessions = HashMap<MapData, [u8; 8], [u8; 200]>;

/// The kernel answers, and detects.
fn leave(home: &Home, netns: &Netns, served: &[Served]) -> Result<()> {
    let pins = home.pin_dir();
    let mut ebpf = load(pins)?;
    start_timers(&mut ebpf)?;
    let mut sessions: Sessions = HashMap::try_from(open(pins, "dz_sessions")?)?;
    let mut peers: HashMap<_, [u8; 20], [u8; 36]> = HashMap::try_from(open(pins, "dz_peers")?)?;
    let mut locals: HashMap<_, [u8; 8], u32> = HashMap::try_from(open(pins, "dz_locals")?)?;
    let mut deadlines: Array<_, [u8; 24]> = Array::try_from(open(pins, "dz_deadlines")?)?;
    let mut slot = 0;
    for (block, served) in (BLOCK..).zip(served) {
        let ifindex = netns.ifindex(served.interface)?;
        let addr = served.local.octets();
        locals.insert(bytes(&LocalKey { ifindex, addr }), block, 0)?;
        for peer in &served.peers {
            let key = SessionKey {
                ifindex,
                local: addr,
                peer: peer.octets(),
            };
            peers.insert(peer_key(served.interface, *peer), peer_value(addr), 0)?;
            let deadline = Deadline {
                deadline_ns: NEVER_NS,
                key,
                next_due: 0,
            };
            deadlines.set(slot, bytes::<_, 24>(&deadline), 0)?;
            let at = Destination {
                ifindex,
                peer: key.peer,
            };
            sessions.insert(bytes(&at), bytes(&entry(key, slot, block)), 0)?;
            slot += 1;
        }
        let program: &mut SchedClassifier =
            ebpf.program_mut("dz_tc_l3").context("gone")?.try_into()?;
        attach(program, pins, netns, served.interface)?;
        attach_gate(&mut ebpf, pins, netns, served.interface)?;
    }
    Ok(())
}

/// By a pinned TCX link. Below Linux 6.6 this kernel part has none: the present one gets a new filter.
fn attach_gate(ebpf: &mut Ebpf, pins: &Path, netns: &Netns, interface: &str) -> Result<()> {
    if Requirement::Kernel(6, 6).missing().is_some() {
        return Ok(());
    }
    let gate: &mut SchedClassifier = ebpf.program_mut("dz_gate_l3").context("gone")?.try_into()?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let attached = netns.run(|| gate.attach_with_options(interface, TcAttachType::Egress, options));
    let link = FdLink::try_from(gate.take_link(attached?)?)?;
    link.pin(pins.join(format!("gate_{interface}")))?;
    Ok(())
}

fn entry(key: SessionKey, slot: u32, block: u32) -> SessionEntry {
    let now_ns = monotonic_ns();
    let session = Session {
        next_tx_ns: now_ns,
        since_ns: now_ns,
        tx_gaps_us: [u32::MAX; 2],
        timers: timers(),
        local_discr: 0x4000_0000 + slot,
        backoff: 1,
        state: STATE_DOWN,
        burst_left: 3,
        announce: 1,
        ..Session::read_from_bytes(&[0; 128]).unwrap_or_else(|_| unreachable!())
    };
    SessionEntry {
        lock: 0,
        detour: 0,
        slot,
        generation: slot + 7,
        block,
        key,
        random: slot + 1,
        reserved: 0,
        received: 0,
        answered: 0,
        originated: 0,
        last_seen_ns: 0,
        session,
    }
}

fn seen(home: &Home) -> Result<AllSeen> {
    const LOCKED: u64 = 4;
    let sessions: Sessions = HashMap::try_from(open(home.pin_dir(), "dz_sessions")?)?;
    let mut seen = AllSeen::new();
    for key in sessions.keys() {
        let value = sessions.get(&key?, LOCKED)?;
        let entry = SessionEntry::read_from_bytes(&value).ok().context("size")?;
        seen.insert(
            entry.key.peer,
            Seen {
                up: entry.session.state == STATE_UP,
                transitions: entry.session.transitions,
                local_discr: entry.session.local_discr,
                place: (entry.generation, entry.slot, entry.block),
                received: entry.received,
                answered: entry.answered,
            },
        );
    }
    Ok(seen)
}

fn load(pins: &Path) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.join(name));
    }
    for name in ["dz_deadlines", "dz_sessions", "dz_peers"] {
        loader.map_max_entries(name, SLOTS);
    }
    let mut ebpf = load::object(&mut loader, OBJECT)?;
    for name in ["dz_transmit", "dz_control", "dz_tc_l3", "dz_gate_l3"] {
        load::classifier(&mut ebpf, name)?;
    }
    let config = Config {
        abi_version: 4,
        port: dz_common::LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: [0, 1, 0, 0],
        groups: SLOTS / SLOTS_PER_GROUP,
        grace_ns: GRACE_NS,
        actions: ACTIONS,
        reserved: [0; 6],
    };
    let mut configs: Array<_, [u8; 32]> = Array::try_from(open(pins, "dz_config")?)?;
    configs.set(0, bytes::<_, 32>(&config), 0)?;
    let mut heartbeat: Array<_, u64> = Array::try_from(open(pins, "dz_heartbeat")?)?;
    heartbeat.set(0, monotonic_ns(), 0)?;
    Ok(ebpf)
}
