//! What sessions notice of an agent that stands still, dies, is restarted, or is kept from running by
//! a busy host: 1,000 of them at 300 ms × 3. The far side is the state machine over a UDP socket, whose
//! thread runs at `SCHED_FIFO` 60, before everything else here.
//!
//! While the host is busy some peers hear nothing any more and say so: how long their routes outlive the
//! verdict is what `--realtime` is for.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::Event;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::Agent;
use dz_tests::bed::HERE;
use dz_tests::priority;
use dz_tests::route_log::RouteLog;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use nix::sys::signal::Signal;

use crate::crowd::{self, Hosts, NETWORK, QUICK, peer};
use crate::events::Events;
use crate::row::{Goal, Row};
use crate::times::Times;

const SESSIONS: u32 = 1_000;
/// The first of them, whose peers hear nothing while the host is busy.
const CUT_OFF: u32 = 10;
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
                ("stopped_2s", stopped as Case, 0, true),
                ("killed_and_restarted", killed, 0, true),
                ("restarted", restarted, 0, true),
                ("busy_realtime", busy, CUT_OFF, true),
            ][..],
        ),
        ("off", &[("busy", busy, CUT_OFF, false)]),
    ] {
        let mut bed = Bed::new(realtime)?;
        for (name, case, cut_off, has_goal) in cases {
            eprintln!("{name}");
            let before = bed.state_changes(*cut_off)?;
            bed = case(bed)?;
            thread::sleep(AFTER);
            let [ours, theirs] = bed.state_changes(*cut_off)?;
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
            rows.extend(ends(name, std::mem::take(&mut bed.route_gone)));
            crowd::until_up(&bed.agent, &bed.hosts.here, SESSIONS)?;
        }
    }
    Ok(rows)
}

/// Of routes whose sessions went Down meanwhile.
fn ends(case: &str, route_gone: Vec<u64>) -> Option<Row> {
    let times = Times::of_ns(route_gone);
    (times.max() > 0.0).then(|| Row {
        name: format!("{case}/route_gone"),
        value: times.median(),
        unit: "us",
        spread: Some(times.spread()),
        baseline: None,
        goal: None,
        noisy: false,
    })
}

type Case = fn(Bed) -> anyhow::Result<Bed>;

/// Declared in the order of dropping.
struct Bed {
    agent: Agent,
    far: UdpPeer,
    hosts: Hosts,
    realtime: String,
    /// From verdicts to the ends of their routes, ns.
    route_gone: Vec<u64>,
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
            route_gone: Vec::new(),
        })
    }

    /// What the first peers are sent does not reach them, or does again.
    fn cut_off(&self, add_or_del: &str) -> anyhow::Result<()> {
        for number in 0..CUT_OFF {
            let address = peer(number);
            let line = format!("route {add_or_del} unreachable {address} table local");
            self.hosts.there.ip(&line)?;
        }
        Ok(())
    }

    /// At either end, but for the first peers, which are cut off.
    fn state_changes(&self, cut_off: u32) -> anyhow::Result<[u64; 2]> {
        let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
        let stays = |address: Ipv4Addr| u32::from(address) >= u32::from(peer(cut_off));
        let ours = maps.sessions()?.into_iter();
        let ours = ours.filter(|entry| stays(entry.key.peer.into()));
        let theirs = self.far.sessions().into_iter();
        let theirs = theirs.filter(|session| stays(session.peer));
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
        route_gone,
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
        route_gone,
    })
}

/// Somebody keeps every processor, while some peers are cut off.
fn busy(mut bed: Bed) -> anyhow::Result<Bed> {
    let mut events = Events::open(bed.agent.home().pin_dir())?;
    // It takes the times, and so must not wait for anybody.
    let log = bed.hosts.here.run(|| {
        priority::first_in_first_out(FAR_PRIORITY)?;
        RouteLog::start(&bed.hosts.here)
    })?;
    bed.cut_off("add")?;
    keep_processors()?;
    let goes_down = |number| {
        let address = peer(number);
        move |event: &&Event| event.to == State::Down && event.key.peer == address.octets()
    };
    let (events, changes) = (
        events.take()?,
        log.wait(0, AFTER, |changes| {
            changes.iter().filter(|change| change.gone).count() >= CUT_OFF as usize
        })?,
    );
    for number in 0..CUT_OFF {
        let verdict = events
            .iter()
            .find(goes_down(number))
            .context("no verdict")?;
        let route = changes
            .iter()
            .find(|change| change.gone && change.route.dst == peer(number));
        let gone_ns = route.context("a route is left")?.read_ns;
        bed.route_gone.push(gone_ns.saturating_sub(verdict.at_ns));
    }
    bed.cut_off("del")?;
    Ok(bed)
}

fn keep_processors() -> anyhow::Result<()> {
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
    Ok(())
}
