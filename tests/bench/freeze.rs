//! What sessions notice of an agent that stands still, dies, is restarted, or is kept from running by
//! a busy host: 1,000 of them at 300 ms × 3. The far side is the state machine over a UDP socket, whose
//! thread runs at `SCHED_FIFO` 60, before everything else here.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_agent::datapath::MapReader;
use dz_common::session::Timers;
use dz_tests::agent::Agent;
use dz_tests::bed::HERE;
use dz_tests::priority;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use nix::sys::signal::Signal;

use crate::crowd::{self, Hosts, NETWORK, QUICK, peer};
use crate::row::{Goal, Row};

const SESSIONS: u32 = 1_000;
const FROZEN: Duration = Duration::from_secs(2);
const BUSY: Duration = Duration::from_secs(5);
/// Longer than a detection time: what happens late happens by then.
const AFTER: Duration = Duration::from_secs(2);
/// Of the far side, and of those who keep the processors.
const FAR_PRIORITY: i32 = 60;
const BUSY_PRIORITY: i32 = 50;

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut rows = Vec::new();
    for (realtime, cases) in [
        (
            "auto",
            &[
                ("stopped_2s", stopped as Case, true),
                ("killed_and_restarted", killed, true),
                ("restarted", restarted, true),
                ("busy_realtime", busy, true),
            ][..],
        ),
        ("off", &[("busy", busy, false)]),
    ] {
        let mut bed = Bed::new(realtime)?;
        for (name, case, has_goal) in cases {
            eprintln!("{name}");
            let before = bed.state_changes()?;
            bed = case(bed)?;
            thread::sleep(AFTER);
            let [ours, theirs] = bed.state_changes()?;
            let flaps = (ours - before[0]) + (theirs - before[1]);
            rows.push(Row {
                name: format!("{name}/state_changes"),
                value: flaps as f64,
                unit: "",
                spread: None,
                baseline: None,
                goal: has_goal.then_some(Goal::AtMost(0.0)),
                noisy: false,
            });
            crowd::until_up(&bed.agent, &bed.hosts.here, SESSIONS)?;
        }
    }
    Ok(rows)
}

type Case = fn(Bed) -> anyhow::Result<Bed>;

/// Declared in the order of dropping.
struct Bed {
    agent: Agent,
    far: UdpPeer,
    hosts: Hosts,
    realtime: String,
}

impl Bed {
    fn new(realtime: &str) -> anyhow::Result<Self> {
        let hosts = Hosts::new()?;
        let line = format!("route add local {NETWORK} dev lo");
        hosts.there.ip(&line)?;
        let interval_us = QUICK.interval_ms * 1_000;
        let config = UdpPeerConfig {
            crowd: Some(HERE),
            timers: Timers {
                desired_min_tx_us: interval_us,
                required_min_rx_us: interval_us,
                detect_mult: QUICK.detect_mult,
                backoff_cap_us: 1_000_000,
                ..Timers::DEFAULT
            },
            ..UdpPeerConfig::new(Ipv4Addr::UNSPECIFIED)
        };
        // A thread begins with the priority of the one that starts it.
        let far = hosts.there.run(|| {
            priority::first_in_first_out(FAR_PRIORITY)?;
            UdpPeer::spawn(config)
        });
        let far = far.context("the far side")?;
        for number in 0..SESSIONS {
            far.add_session(peer(number));
        }
        let realtime = format!("--realtime={realtime}");
        let more = ["--attach=tc", &realtime];
        let agent = hosts.agent_with_sessions(SESSIONS, QUICK, &more)?;
        thread::sleep(AFTER);
        Ok(Self {
            agent,
            far,
            hosts,
            realtime,
        })
    }

    /// At either end.
    fn state_changes(&self) -> anyhow::Result<[u64; 2]> {
        let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
        let ours = maps.sessions()?.into_iter();
        let theirs = self.far.sessions().into_iter();
        Ok([
            ours.map(|entry| u64::from(entry.session.transitions)).sum(),
            theirs.map(|session| session.changes.len() as u64).sum(),
        ])
    }
}

fn stopped(mut bed: Bed) -> anyhow::Result<Bed> {
    bed.agent.process().freeze()?;
    thread::sleep(FROZEN);
    bed.agent.process().signal(Signal::SIGCONT)?;
    Ok(bed)
}

fn killed(bed: Bed) -> anyhow::Result<Bed> {
    end(bed, Signal::SIGKILL)
}

fn restarted(bed: Bed) -> anyhow::Result<Bed> {
    end(bed, Signal::SIGUSR2)
}

fn end(bed: Bed, signal: Signal) -> anyhow::Result<Bed> {
    let Bed {
        agent,
        far,
        hosts,
        realtime,
    } = bed;
    let home = match signal {
        Signal::SIGKILL => agent.crash()?,
        _ => agent.end(signal)?,
    };
    let agent = hosts.agent_in(home, SESSIONS, QUICK, &["--attach=tc", &realtime])?;
    Ok(Bed {
        agent,
        far,
        hosts,
        realtime,
    })
}

/// Somebody keeps every processor.
fn busy(bed: Bed) -> anyhow::Result<Bed> {
    let processors = thread::available_parallelism()?.get();
    let until = Instant::now() + BUSY;
    let busy: Vec<_> = (0..processors)
        .map(|processor| {
            thread::spawn(move || -> anyhow::Result<()> {
                priority::run_on(processor)?;
                priority::first_in_first_out(BUSY_PRIORITY)?;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                Ok(())
            })
        })
        .collect();
    for thread in busy {
        dz_tests::wait::join(thread).context("busy")??;
    }
    Ok(bed)
}
