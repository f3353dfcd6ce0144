//! What a packet costs in the kernel programs, one at a time by `BPF_PROG_TEST_RUN`: those that are
//! none of our business beside a program that does nothing, and answers beside a bare reflector.
//!
//! Each figure is the time of many runs over the same frame, once for each of many frames. The runs
//! of what is compared alternate; a ratio is the median of pairs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::ensure;
use aya::programs::ProgramFd;
use dz_common::LIVENESS_PORT;
use dz_common::counters::Counter;
use dz_common::entry::Identity;
use dz_common::gate::Action;
use dz_common::map::{ABI_VERSION, Config, Deadline, LocalKey, NEVER_NS, SessionEntry, SessionKey};
use dz_common::packet::{State, Version};
use dz_common::session::{Session, Timers};
use dz_tests::bare;
use dz_tests::bpf::test_run_time;
use dz_tests::frame::{Datagram, ethernet};
use dz_tests::kernel::Kernel;
use dz_tests::load;
use dz_tests::rng::Rng;
use etherparse::EtherType;

use crate::row::{Goal, Row};
use crate::times::Times;

const SESSIONS: u32 = 10_000;
/// Frames to different sessions, picked at random, and runs over each.
const FRAMES: usize = 200;
const REPEAT: u32 = 20_000;
/// `lo`, which a test run's packets belong to, and its address.
const IFINDEX: u32 = 1;
const MAC: [u8; 6] = [0; 6];
/// Of every session, at both ends: see [`answer`].
const DISCRIMINATOR: u32 = 7;
/// The block of every session's counters.
const BLOCK: u32 = 1;
const DATA: u16 = 9_000;

/// The programs that ours are compared with.
struct Baselines {
    empty_tc: ProgramFd,
    empty_xdp: ProgramFd,
    reflect_eth: ProgramFd,
    reflect_xdp: ProgramFd,
    _ebpf: aya::Ebpf,
}

impl Baselines {
    fn load() -> anyhow::Result<Self> {
        let mut ebpf = load::object(&mut aya::EbpfLoader::new(), bare::OBJECT)?;
        let mut fd = |name: &str| -> anyhow::Result<ProgramFd> {
            if name.ends_with("xdp") {
                return Ok(load::xdp(&mut ebpf, name)?.fd()?.try_clone()?);
            }
            Ok(load::classifier(&mut ebpf, name)?.fd()?.try_clone()?)
        };
        Ok(Self {
            empty_tc: fd("empty_tc")?,
            empty_xdp: fd("empty_xdp")?,
            reflect_eth: fd("reflect_eth")?,
            reflect_xdp: fd("reflect_xdp")?,
            _ebpf: ebpf,
        })
    }
}

/// Packets that are not ours, and packets that leave.
pub(crate) fn passthrough(_: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let kernel = kernel()?;
    let baselines = Baselines::load()?;
    let (tc, xdp) = (baselines.empty_tc.as_fd(), baselines.empty_xdp.as_fd());
    let twice = Some(Limit::Times(2.0));
    let gate = Some(Limit::Above(100.0));
    let udp = |to: Ipv4Addr| data(to, Shape::Udp);
    let tcp = |to: Ipv4Addr| data(to, Shape::Tcp);
    let mut rows = Vec::new();
    for (name, program, empty, frame, limit) in [
        ("xdp/tcp", kernel.xdp(), xdp, &tcp as &dyn Fn(_) -> _, twice),
        ("xdp/udp", kernel.xdp(), xdp, &udp, twice),
        ("tc_ethernet/tcp", kernel.ethernet(), tc, &tcp, twice),
        ("tc_ethernet/udp", kernel.ethernet(), tc, &udp, twice),
        ("gate/no_session", kernel.gate(), tc, &|_| udp(NOBODY), gate),
        ("gate/up", kernel.gate(), tc, &udp, gate),
    ] {
        rows.extend(compare(name, (program, empty), frame, limit)?);
    }
    Ok(rows)
}

/// A destination without a session.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);

/// Liveness packets, answered. A test run goes on with the packet that the run before has left, the
/// answer: so each session here is one with itself, its address and its discriminator at both ends,
/// and its answer the packet that it answers. Its intervals are 0, for which pacing never waits, and
/// its timer never starts, for its deadlines have passed.
pub(crate) fn answer(_: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let kernel = kernel()?;
    let baselines = Baselines::load()?;
    let mut rows = Vec::new();
    for (name, program, reflector) in [
        ("xdp", kernel.xdp(), baselines.reflect_xdp.as_fd()),
        (
            "tc_ethernet",
            kernel.ethernet(),
            baselines.reflect_eth.as_fd(),
        ),
    ] {
        let answered =
            || -> anyhow::Result<u64> { Ok(kernel.counters(BLOCK)?.get(Counter::RxAnswered)) };
        let before = answered()?;
        let limit = Some(Limit::Times(8.0));
        let figures = compare(
            &format!("{name}/answered"),
            (program, reflector),
            liveness,
            limit,
        )?;
        let runs = answered()? - before;
        let expected = FRAMES as u64 * u64::from(REPEAT);
        ensure!(
            runs == expected,
            "{name}: {runs} answers to {expected} packets"
        );
        let ns = figures[0].value;
        rows.extend(figures);
        rows.push(Row {
            name: format!("{name}/rate"),
            value: 1_000.0 / ns,
            unit: "Mpps",
            spread: None,
            baseline: None,
            goal: None,
            noisy: false,
        });
        // Where the time goes: the same path, left earlier and earlier.
        for (part, frame) in [
            (
                "wrong_discriminator",
                &wrong_discriminator as &dyn Fn(_) -> _,
            ),
            ("malformed", &malformed),
            ("unknown_peer", &unknown_peer),
        ] {
            rows.extend(compare(
                &format!("{name}/{part}"),
                (program, reflector),
                frame,
                None,
            )?);
        }
    }
    Ok(rows)
}

/// What a program may cost.
#[derive(Clone, Copy)]
enum Limit {
    /// So many times the baseline.
    Times(f64),
    /// So many ns above it.
    Above(f64),
}

/// A program beside its baseline, over the same frames.
fn compare(
    name: &str,
    (program, baseline): (BorrowedFd<'_>, BorrowedFd<'_>),
    frame: impl Fn(Ipv4Addr) -> Vec<u8>,
    limit: Option<Limit>,
) -> anyhow::Result<Vec<Row>> {
    let rng = Rng::new(1, 0);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..FRAMES {
        let frame = frame(peer(rng.below(u64::from(SESSIONS)) as u32));
        let mut order = [(program, &mut ours), (baseline, &mut theirs)];
        if round % 2 == 1 {
            order.reverse();
        }
        for (program, times) in order {
            times.push(f64::from(test_run_time(program, &frame, REPEAT)?));
        }
    }
    let pairs = || ours.iter().zip(&theirs);
    let (value, baseline) = (Times::of(ours.clone()), Times::of(theirs.clone()));
    let row = |what: &str, unit, figures: &Times, goal: Option<f64>, baseline| {
        let [low, high] = figures.median_interval();
        Row {
            name: format!("{name}/{what}"),
            value: figures.median(),
            unit,
            spread: Some([low, high]),
            baseline,
            goal: goal.map(Goal::AtMost),
            noisy: goal.is_some_and(|goal| low <= goal && goal < high),
        }
    };
    let mut rows = vec![row("time", "ns", &value, None, Some(baseline.median()))];
    match limit {
        Some(Limit::Times(times)) => {
            let ratios = Times::of(pairs().map(|(ours, theirs)| ours / theirs));
            rows.push(row("times", "times", &ratios, Some(times), None));
        }
        Some(Limit::Above(ns)) => {
            let above = Times::of(pairs().map(|(ours, theirs)| ours - theirs));
            rows.push(row("above", "ns", &above, Some(ns), None));
        }
        None => {}
    }
    Ok(rows)
}

/// Address of a session, both ends.
fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes([10, 2, 0, 0]) + number)
}

enum Shape {
    Tcp,
    Udp,
}

fn data(to: Ipv4Addr, shape: Shape) -> Vec<u8> {
    let (from, to) = (SocketAddrV4::new(to, DATA), SocketAddrV4::new(to, DATA));
    let mut datagram = Datagram::new(from, to, [0x5a; 1_000]);
    if let Shape::Tcp = shape {
        datagram.protocol = 6;
    }
    framed(&datagram)
}

fn liveness(of: Ipv4Addr) -> Vec<u8> {
    framed(&said(of, |_| {}))
}

fn wrong_discriminator(of: Ipv4Addr) -> Vec<u8> {
    framed(&said(of, |payload| payload[11] ^= 1))
}

fn malformed(of: Ipv4Addr) -> Vec<u8> {
    framed(&said(of, |payload| payload[3] = 39))
}

fn unknown_peer(_: Ipv4Addr) -> Vec<u8> {
    let mut datagram = said(peer(0), |_| {});
    datagram.src.set_ip(NOBODY);
    framed(&datagram)
}

/// What a session says of itself, changed.
fn said(of: Ipv4Addr, change: impl FnOnce(&mut [u8; 40])) -> Datagram {
    let address = SocketAddrV4::new(of, LIVENESS_PORT);
    let mut payload = session().packet(Version::new([0; 4])).encode();
    change(&mut payload);
    Datagram::new(address, address, payload)
}

fn framed(datagram: &Datagram) -> Vec<u8> {
    ethernet(MAC, MAC, EtherType::IPV4, &datagram.build(), true)
}

/// Up, with itself.
fn session() -> Session {
    let timers = Timers {
        desired_min_tx_us: 0,
        required_min_rx_us: 0,
        floor_us: 0,
        ..Timers::DEFAULT
    };
    let mut session = Session::new(timers, DISCRIMINATOR, 1);
    session.peer_discr = DISCRIMINATOR;
    session.state = State::Up;
    session.ups = 1;
    session
}

/// The programs, with all sessions in the maps, and none of the timers started.
fn kernel() -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::without_timer("bench-packets", 2 * SESSIONS)?;
    kernel.set_config(&Config {
        abi_version: ABI_VERSION,
        port: LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: Version::new([0; 4]),
        groups: 1,
        grace_ns: NEVER_NS,
        when_down: Action::Reroute,
        when_never_up: Action::Pass,
        ttl: 64,
        tos: 0xc0,
        route_protocols: [0; 4],
    })?;
    // Looked at only where there is no session.
    let addr = peer(0).octets();
    let ifindex = IFINDEX;
    kernel.set_local(&LocalKey { ifindex, addr }, BLOCK)?;
    for number in 0..SESSIONS {
        let local = peer(number).octets();
        let slot = number % dz_tests::kernel::SLOTS;
        let key = SessionKey {
            ifindex: IFINDEX,
            local,
            peer: local,
        };
        kernel.insert_session(&SessionEntry::new(
            Identity {
                key,
                slot,
                generation: 1,
                block: BLOCK,
                seed: number + 1,
            },
            session(),
        ))?;
        kernel.set_deadline(
            slot,
            &Deadline {
                deadline_ns: NEVER_NS,
                key,
                next_due: 0,
            },
        )?;
    }
    Ok(kernel)
}
