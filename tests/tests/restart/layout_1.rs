//! The kernel part that version 0.1.0 left to its next start, with maps of layout 1: its own compiled
//! programs (`tests/data/layout-1.o`, `dz-ebpf/object/dz-ebpf.o` as it was before the gate), and what
//! its agent wrote, byte by byte. None of the present types is used: they change.

use std::collections::HashMap as Table;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::xdp::XdpMode;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use dz_tests::agent::Home;
use dz_tests::bpf::test_run;
use dz_tests::harness::Requirement;
use dz_tests::load;
use dz_tests::netns::Netns;
use dz_tests::wait::monotonic_ns;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::witness::Seen;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../data/layout-1.o");

const MAPS: [&str; 10] = [
    "dz_config",
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
pub(crate) const SLOTS: u32 = 4_096;
pub(crate) const SLOTS_PER_GROUP: u32 = 2_048;
pub(crate) const NEVER_NS: u64 = u64::MAX;
pub(crate) const STATE_DOWN: u8 = 1;
pub(crate) const STATE_UP: u8 = 3;
/// The block of counters of an interface's one address.
pub(crate) const BLOCK: u32 = 1;
/// Longer than any test.
pub(crate) const GRACE_NS: u64 = 3_600_000_000_000;

macro_rules! layout {
    ($(struct $name:ident { $($field:ident: $type:ty,)+ })+) => { $(
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)+ }
    )+ };
}

layout! {
    struct SessionKey { ifindex: u32, local: [u8; 4], peer: [u8; 4], }
    struct LocalKey { ifindex: u32, addr: [u8; 4], }
    struct PeerKey { ifname: [u8; 16], peer: [u8; 4], }
    struct Timers {
        desired_min_tx_us: u32, required_min_rx_us: u32, floor_us: u32, ceiling_us: u32,
        backoff_cap_us: u32, detect_mult: u8, mode: u8, reserved: [u8; 2],
    }
    struct Peer { local: [u8; 4], via: [u8; 4], timers: Timers, origin: u8, reserved: [u8; 3], }
    struct Session {
        detect_deadline_ns: u64, last_rx_ns: u64, last_tx_ns: u64, next_tx_ns: u64, since_ns: u64,
        first_rx_ns: u64, tx_gaps_us: [u32; 2], timers: Timers, local_discr: u32, peer_discr: u32,
        peer_desired_min_tx_us: u32, peer_required_min_rx_us: u32, echoed_discr: u32, backoff: u32,
        transitions: u32, ups: u32, peer_version: [u8; 4], state: u8, down_reason: u8,
        last_down_reason: u8, peer_mode: u8, burst_left: u8, announce: u8, reserved: [u8; 6],
    }
    struct SessionEntry {
        lock: u32, slot: u32, generation: u32, block: u32, key: SessionKey, random: u32,
        received: u64, answered: u64, originated: u64, last_seen_ns: u64, session: Session,
    }
    struct Deadline { deadline_ns: u64, key: SessionKey, generation: u32, }
    struct Config {
        abi_version: u32, port: u16, unknown_pass: u8, reserved: u8, version: [u8; 4], groups: u32,
        grace_ns: u64,
    }
    struct Request { op: u32, index: u32, key: SessionKey, generation: u32, peer: PeerKey, }
}

const _: () = {
    assert!(size_of::<SessionEntry>() == 192);
    assert!(size_of::<Peer>() == 36);
    assert!(size_of::<Config>() == 24);
    assert!(size_of::<Request>() == 44);
};

type Sessions = HashMap<MapData, [u8; 12], [u8; 192]>;

pub(crate) fn timers() -> Timers {
    let interval_us = crate::crowd::interval_ms() * 1_000;
    Timers {
        desired_min_tx_us: interval_us,
        required_min_rx_us: interval_us,
        floor_us: 50_000,
        ceiling_us: 3_000_000,
        backoff_cap_us: 5_000_000,
        detect_mult: crate::crowd::DETECT_MULT,
        mode: 1,
        reserved: [0; 2],
    }
}

/// A kernel part of an earlier version.
pub(crate) struct Layout {
    /// Leaves it in a home, with sessions in Down.
    pub(crate) leave: fn(&Home, &Netns, &[Served]) -> Result<()>,
    /// What its sessions look like, by the peer's address.
    pub(crate) seen: fn(&Home) -> Result<AllSeen>,
}

/// By the peer's address.
pub(crate) type AllSeen = Table<[u8; 4], Seen>;

pub(crate) const LAYOUT: Layout = Layout { leave, seen };

/// An interface with an address of ours, and peers behind it.
pub(crate) struct Served {
    pub(crate) interface: &'static str,
    pub(crate) local: Ipv4Addr,
    pub(crate) peers: Vec<Ipv4Addr>,
}

/// The kernel answers, and detects.
fn leave(home: &Home, netns: &Netns, served: &[Served]) -> Result<()> {
    let mut ebpf = leave_maps(home, netns, served)?;
    let program: &mut SchedClassifier = ebpf.program_mut("dz_tc_l3").context("gone")?.try_into()?;
    for served in served {
        attach(program, home.pin_dir(), netns, served.interface)?;
    }
    Ok(())
}

/// Leaves the same on an Ethernet device, in native XDP, which that version took by itself where there was any.
pub(crate) fn leave_xdp(home: &Home, netns: &Netns, served: &Served) -> Result<()> {
    let mut ebpf = leave_maps(home, netns, std::slice::from_ref(served))?;
    let program = load::xdp(&mut ebpf, "dz_xdp")?;
    let attached = netns.run(|| program.attach(served.interface, XdpMode::Driver));
    let link = FdLink::try_from(program.take_link(attached?)?)?;
    link.pin(
        home.pin_dir()
            .join(format!("link_xdp_{}", served.interface)),
    )?;
    Ok(())
}

fn leave_maps(home: &Home, netns: &Netns, served: &[Served]) -> Result<Ebpf> {
    let mut ebpf = load(home.pin_dir())?;
    start_timers(&mut ebpf)?;
    let pins = home.pin_dir();
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
            let (key, entry) = session(ifindex, addr, *peer, (slot, block));
            peers.insert(peer_key(served.interface, *peer), peer_value(addr), 0)?;
            let deadline = Deadline {
                deadline_ns: NEVER_NS,
                key,
                generation: entry.generation,
            };
            deadlines.set(slot, bytes::<_, 24>(&deadline), 0)?;
            sessions.insert(bytes(&key), bytes(&entry), 0)?;
            slot += 1;
        }
    }
    Ok(ebpf)
}

/// By a pinned TCX link, or below Linux 6.6 by a filter, which stays by itself.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    pins: &Path,
    netns: &Netns,
    interface: &str,
) -> Result<()> {
    let hook = TcAttachType::Ingress;
    if Requirement::Kernel(6, 6).missing().is_none() {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = netns.run(|| program.attach_with_options(interface, hook, options));
        let link = FdLink::try_from(program.take_link(attached?)?)?;
        link.pin(pins.join(format!("link_tc_{interface}")))?;
        return Ok(());
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: 44_880,
        handle: TcHandle::new(0, 1),
        classid: None,
    });
    let attached = netns.run(|| {
        qdisc_add_clsact(interface)?;
        program.attach_with_options(interface, hook, options)
    });
    std::mem::forget(program.take_link(attached?)?);
    Ok(())
}

/// What the sessions look like in maps of this layout.
pub(crate) fn seen(home: &Home) -> Result<AllSeen> {
    const LOCKED: u64 = 4;
    let sessions: Sessions = HashMap::try_from(open(home.pin_dir(), "dz_sessions")?)?;
    let mut seen = Table::new();
    for key in sessions.keys() {
        let value = sessions.get(&key?, LOCKED)?;
        let entry = SessionEntry::read_from_bytes(&value).ok().context("size")?;
        let Session {
            state,
            transitions,
            local_discr,
            ..
        } = entry.session;
        seen.insert(
            entry.key.peer,
            Seen {
                up: state == STATE_UP,
                transitions,
                local_discr,
                place: (entry.generation, entry.slot, entry.block),
                received: entry.received,
                answered: entry.answered,
            },
        );
    }
    Ok(seen)
}

/// Pretends that a later version has made the maps.
pub(crate) fn set_layout(home: &Home, layout: u32) -> Result<()> {
    let mut config = Array::try_from(open(home.pin_dir(), "dz_config")?)?;
    let mut value: [u8; 24] = config.get(&0, 0)?;
    value[..4].copy_from_slice(&layout.to_ne_bytes());
    Ok(config.set(0, value, 0)?)
}

/// Gives one session a mode that no version knows. Packets do not change it.
pub(crate) fn spoil_mode(home: &Home) -> Result<()> {
    use std::mem::offset_of;
    const MODE: usize = offset_of!(SessionEntry, session.timers.mode);
    let mut sessions: Sessions = HashMap::try_from(open(home.pin_dir(), "dz_sessions")?)?;
    let key = sessions.keys().next().context("no session")??;
    let mut value = sessions.get(&key, 0)?;
    value[MODE] = 77;
    Ok(sessions.insert(key, value, 0)?)
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
    for name in ["dz_transmit", "dz_control", "dz_tc_l3"] {
        load::classifier(&mut ebpf, name)?;
    }
    let config = Config {
        abi_version: 1,
        port: dz_common::LIVENESS_PORT,
        unknown_pass: 0,
        reserved: 0,
        version: [0, 1, 0, 0],
        groups: SLOTS / SLOTS_PER_GROUP,
        grace_ns: GRACE_NS,
    };
    let mut configs: Array<_, [u8; 24]> = Array::try_from(open(pins, "dz_config")?)?;
    configs.set(0, bytes::<_, 24>(&config), 0)?;
    let mut heartbeat: Array<_, u64> = Array::try_from(open(pins, "dz_heartbeat")?)?;
    heartbeat.set(0, monotonic_ns(), 0)?;
    Ok(ebpf)
}

pub(crate) fn start_timers(ebpf: &mut Ebpf) -> Result<()> {
    const OP_START_GROUP: u32 = 1;
    /// Behind an Ethernet header.
    const REQUEST_OFFSET: usize = 14;
    let control: &SchedClassifier = ebpf.program("dz_control").context("gone")?.try_into()?;
    for index in 0..SLOTS / SLOTS_PER_GROUP {
        let request = Request {
            op: OP_START_GROUP,
            index,
            key: SessionKey::read_from_bytes(&[0; 12]).ok().context("size")?,
            generation: 0,
            peer: PeerKey::read_from_bytes(&[0; 20]).ok().context("size")?,
        };
        let mut frame = vec![0; REQUEST_OFFSET];
        frame[12] = 8;
        frame.extend_from_slice(request.as_bytes());
        test_run(
            control.fd()?.as_fd(),
            &frame,
            &[],
            &mut vec![0; frame.len()],
        )?;
    }
    Ok(())
}

fn session(
    ifindex: u32,
    local: [u8; 4],
    peer: Ipv4Addr,
    (slot, block): (u32, u32),
) -> (SessionKey, SessionEntry) {
    let key = SessionKey {
        ifindex,
        local,
        peer: peer.octets(),
    };
    let now_ns = monotonic_ns();
    let session = Session {
        next_tx_ns: now_ns,
        since_ns: now_ns,
        tx_gaps_us: [u32::MAX; 2],
        timers: timers(),
        local_discr: 0x1000_0000 + slot,
        backoff: 1,
        state: STATE_DOWN,
        burst_left: 3,
        announce: 1,
        ..Session::read_from_bytes(&[0; 128]).unwrap_or_else(|_| unreachable!())
    };
    let entry = SessionEntry {
        lock: 0,
        slot,
        generation: slot + 7,
        block,
        key,
        random: slot + 1,
        received: 0,
        answered: 0,
        originated: 0,
        last_seen_ns: 0,
        session,
    };
    (key, entry)
}

pub(crate) fn peer_key(interface: &str, peer: Ipv4Addr) -> [u8; 20] {
    let mut ifname = [0; 16];
    ifname[..interface.len()].copy_from_slice(interface.as_bytes());
    bytes(&PeerKey {
        ifname,
        peer: peer.octets(),
    })
}

pub(crate) fn peer_value(local: [u8; 4]) -> [u8; 36] {
    bytes(&Peer {
        local,
        via: [0; 4],
        timers: timers(),
        origin: 0,
        reserved: [0; 3],
    })
}

pub(crate) fn open(pins: &Path, name: &str) -> Result<Map> {
    Ok(Map::from_map_data(MapData::from_pin(pins.join(name))?)?)
}

pub(crate) fn bytes<T: IntoBytes + Immutable, const N: usize>(value: &T) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}
