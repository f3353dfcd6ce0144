//! A peer that changes its mind as fast as it can: it is held, its route is left alone, and neither the agent nor
//! other peers notice.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::map::SessionEntry;
use dz_common::packet::{Packet, State, Version};
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, PATIENCE, THERE};
use dz_tests::frame::Datagram;
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;
use dz_tests::wire::Direction;

use crate::needs::NEEDS;

/// The peer that flips.
const FLIPPER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const INTERVAL_MS: u32 = 100;
/// Changes of state that are seen while the others' sessions are looked at.
const FLIPS: u32 = 20_000;
/// Most changes of its route with damping: what comes before the first hold, and once more if that ends.
const CHANGES: u64 = 30;
/// The same for each second without.
const CHANGES_A_SECOND: u64 = 30;
/// Most of a processor that the agent takes, of a hundred. At 0.1.0 it took 87.
const PROCESSOR: u64 = 25;

/// What the peer says, in turns.
const BY_ADMIN_DOWN: [State; 2] = [State::Up, State::AdminDown];
/// The session never comes Up.
const BELOW_UP: [State; 2] = [State::Down, State::AdminDown];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("flipper::is_held", &NEEDS, || flips(&[], BY_ADMIN_DOWN)),
        Test::new("flipper::is_quiet_without_damping", &NEEDS, || {
            flips(&["--damping", "off"], BY_ADMIN_DOWN)
        }),
        Test::new("flipper::is_quiet_below_up", &NEEDS, || {
            flips(&[], BELOW_UP)
        }),
        Test::new("flipper::is_quiet_where_it_is_passive", &NEEDS, passive),
    ]
}

fn passive() -> Result<()> {
    flips(&["--override", "10.66.0.1/32 passive"], BY_ADMIN_DOWN)
}

fn flips(options: &[&str], says: [State; 2]) -> Result<()> {
    let bed = Bed::new("flipper", Duration::ZERO)?;
    let mut agent = bed.agent_with(INTERVAL_MS, options)?;
    let pid = agent.process().pid();
    let peer = bed.patient_peer(Rules::Ours, INTERVAL_MS)?;
    bed::connect(&agent)?;
    let (here, flipper) = (HERE.to_string(), FLIPPER.to_string());
    agent.cli(&["connect", &flipper, "--local", &here])?;
    bed::until_route(&bed.here, THERE, true)?;
    let packets = says
        .map(|state| packet(&session(&agent)?, state))
        .into_iter();
    let packets = packets.collect::<Result<Vec<_>>>()?;

    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for packet in &packets {
                    if bed.wire.inject(Direction::BToA, packet).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let looked = meanwhile(&bed, (&agent, pid), &peer, options, says);
        stop.store(true, Ordering::Relaxed);
        looked
    })?;
    println!("{} packets", sent.load(Ordering::Relaxed));
    // It says nothing any more, and a disconnect is as ever.
    agent.cli(&["disconnect", &flipper])?;
    ensure!(bed::entries(agent.home())?.len() == 1);
    bed::until_route(&bed.here, FLIPPER, false)?;
    bed::until_route(&bed.here, THERE, true)
}

/// While the peer flips.
fn meanwhile(
    bed: &Bed,
    (agent, pid): (&Agent, u32),
    peer: &UdpPeer,
    options: &[&str],
    says: [State; 2],
) -> Result<()> {
    if options.is_empty() && says == BY_ADMIN_DOWN {
        eventually(PATIENCE, "that it is held", || {
            let shown = agent.json(&["status", "--json"])?;
            ensure!(shown["held"]["flapping"] == 1, "{shown}");
            anyhow::Ok(())
        })?;
        let table = agent.cli(&["sessions"])?;
        ensure!(table.contains("(held for "), "{table}");
        bed::until_route(&bed.here, FLIPPER, false)?;
        // Also in moments in which it is Up.
        ensure!(session(agent)?.is_held());
    }
    let (begun, flips) = (Instant::now(), session(agent)?.session.transitions);
    let (changes, processor) = (changes(agent)?, processor_ms(pid)?);
    eventually(PATIENCE, "changes of state", || {
        let now = session(agent)?.session.transitions;
        ensure!(now - flips >= FLIPS, "{}", now - flips);
        anyhow::Ok(())
    })?;
    // The others' routes follow their sessions.
    peer.silence();
    bed::until_route(&bed.here, THERE, false)?;
    peer.resume();
    bed::until_route(&bed.here, THERE, true)?;
    let took = begun.elapsed();
    let (changes, processor) = (
        self::changes(agent)? - changes,
        processor_ms(pid)? - processor,
    );
    let flips = session(agent)?.session.transitions - flips;
    println!(
        "{took:?}: {flips} changes of state, {changes} of routes, {processor} ms of a processor"
    );
    let most = match options {
        ["--damping", "off"] => CHANGES_A_SECOND * (took.as_secs() + 1),
        _ => CHANGES,
    };
    ensure!(changes <= most, "{changes} changes of routes in {took:?}");
    let took_ms = u64::try_from(took.as_millis())?;
    ensure!(
        processor * 100 <= took_ms * PROCESSOR,
        "{processor} ms of a processor in {took_ms}"
    );
    let missed = agent.get("/v1/counters")?["agent"]["events_lost"].clone();
    ensure!(missed == 0, "{missed} events lost");
    Ok(())
}

/// The flipper's session.
fn session(agent: &Agent) -> Result<SessionEntry> {
    let entries = bed::entries(agent.home())?.into_iter();
    let mut entries = entries.filter(|entry| entry.key.peer == FLIPPER.octets());
    entries.next().context("no session")
}

/// A packet of the flipper's that our end believes.
fn packet(entry: &SessionEntry, state: State) -> Result<Vec<u8>> {
    let interval_us = INTERVAL_MS * 1_000;
    let packet = Packet {
        state,
        detect_mult: 20,
        passive: false,
        my_discr: 0x0f11_bb1e,
        your_discr: entry.session.local_discr,
        desired_min_tx_us: interval_us,
        required_min_rx_us: interval_us,
        version: Version::new([1, 0, 0, 0]),
        reserved_set: false,
    };
    let (from, to) = (
        SocketAddrV4::new(FLIPPER, LIVENESS_PORT),
        SocketAddrV4::new(HERE, LIVENESS_PORT),
    );
    Ok(Datagram::new(from, to, packet.encode()).build())
}

/// How many changes of routes there have been.
fn changes(agent: &Agent) -> Result<u64> {
    let counters = agent.get("/v1/counters")?;
    let rows = counters["routes"].as_array().context("no routes")?;
    let done =
        |row: &serde_json::Value| Some(row["installs"].as_u64()? + row["withdraws"].as_u64()?);
    Ok(rows.iter().filter_map(done).sum())
}

/// The processor time that the agent has taken.
fn processor_ms(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may have spaces: fields 14 and 15 of proc(5), in hundredths of a second.
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let fields = fields.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Ok(ticks * 10)
}
