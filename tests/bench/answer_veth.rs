//! How many answers a second leave a device: packets of 16,000 sessions, made by kernel programs at the
//! other end of a veth pair, as fast as they can; beside the same state machine over a UDP socket, and
//! beside a program that swaps the addresses and nothing else, which is what the pair itself can do.
//!
//! Our agent stands still meanwhile, and the UDP peer does nothing but to answer: neither has a clock.
//! Their sessions are Up by what they receive. Packets are received on the processor that makes them:
//! the first alone, which leaves the UDP peer another one, or all of them. What each does best counts.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{HERE, INTERFACE, THERE};
use dz_tests::wait::eventually;

use crate::crowd::{self, FIRST, Hosts, Timing, peer};
use crate::generator::{Generator, Pace, Running};
use crate::plain::{self, Plain, Sends};
use crate::row::{Goal, Row};
use crate::speakers::{self, in_state};
use crate::times::Times;

const SESSIONS: u32 = 16_000;
/// So short that pacing lets 8 million packets per second be answered.
const TIMING: Timing = Timing {
    interval_ms: 2,
    detect_mult: 255,
};
const PATIENCE: Duration = Duration::from_secs(20);
const ROUNDS: usize = 5;
const SETTLE: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(2);

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Agent,
    Plain,
    Reflector,
}

const KINDS: [Kind; 3] = [Kind::Agent, Kind::Plain, Kind::Reflector];

/// Where the agent and the reflector are attached, what is at the far end then, and the goal.
struct Hook {
    attach: &'static str,
    sink: Program,
    reflector: Program,
    least: f64,
}

const HOOKS: [Hook; 2] = [
    Hook {
        attach: "xdp",
        sink: Program::SinkXdp,
        reflector: Program::ReflectXdp,
        least: 8.0,
    },
    Hook {
        attach: "tc",
        sink: Program::SinkEthernet,
        reflector: Program::ReflectEthernet,
        least: 4.0,
    },
];

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut rows = Vec::new();
    for hook in &HOOKS {
        let mut rates = [const { Vec::new() }; 3];
        for round in 1..=ROUNDS {
            for (kind, rates) in KINDS.into_iter().zip(&mut rates) {
                rates.push(best(kind, hook, round)?);
            }
        }
        rows.extend(table(hook, &rates));
    }
    Ok(rows)
}

fn table(hook: &Hook, rates: &[Vec<f64>; 3]) -> [Row; 3] {
    let [agent, plain, reflector] = rates;
    let row = |what: &str, figures: &Times, unit| Row {
        name: format!("{}/{what}", hook.attach),
        value: figures.median(),
        unit,
        spread: Some(figures.spread()),
        baseline: None,
        goal: None,
        noisy: false,
    };
    let of = |rates: &[f64]| Times::of(rates.iter().copied());
    let pairs = agent.iter().zip(plain);
    let to_plain = Times::of(pairs.map(|(agent, plain)| agent / plain));
    let [low, high] = to_plain.spread();
    [
        Row {
            baseline: Some(of(plain).median()),
            ..row("answers", &of(agent), "1/s")
        },
        row("reflected", &of(reflector), "1/s"),
        Row {
            goal: Some(Goal::AtLeast(hook.least)),
            noisy: low < hook.least && hook.least <= high,
            ..row("to_plain", &to_plain, "times")
        },
    ]
}

/// Answers per second with as many generators as suit it best.
fn best(kind: Kind, hook: &Hook, round: usize) -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    let processors = thread::available_parallelism()?.get();
    let mut tried = vec![1, processors];
    tried.dedup();
    for generators in tried {
        let rate = match kind {
            Kind::Agent => answered_by_agent(hook, generators)?,
            Kind::Plain => answered_by_plain(generators)?,
            Kind::Reflector => reflected(hook, generators)?,
        };
        let attach = hook.attach;
        eprintln!("{attach}, round {round}: {kind:?}, {generators} generators: {rate:.0} 1/s");
        best = best.max(rate);
    }
    Ok(best)
}

fn answered_by_agent(hook: &Hook, generators: usize) -> anyhow::Result<f64> {
    let hosts = hosts()?;
    let _sink = Bare::attach(&hosts.there, INTERFACE, hook.sink)?;
    let attach = format!("--attach={}", hook.attach);
    let more = [attach.as_str(), "--interval-floor=2ms"];
    let mut agent = hosts.agent(SESSIONS, TIMING, &more)?;
    crowd::connect(&agent, (0..SESSIONS).map(peer), Some(THERE))?;
    agent.process().freeze()?;
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    let sessions = maps.sessions()?;
    ensure!(sessions.len() == SESSIONS as usize, "sessions are missing");
    let frames = speakers::frames_to(&hosts, sessions.iter(), TIMING.interval_us())?;
    begin(&hosts, &frames, || crowd::up(&agent))?;
    rate(&hosts, &frames, generators)
}

fn answered_by_plain(generators: usize) -> anyhow::Result<f64> {
    let hosts = hosts()?;
    hosts.route_to_peers()?;
    let _sink = Bare::attach(&hosts.there, INTERFACE, Program::SinkEthernet)?;
    let timers = Timers {
        desired_min_tx_us: TIMING.interval_us(),
        required_min_rx_us: TIMING.interval_us(),
        floor_us: TIMING.interval_us(),
        detect_mult: TIMING.detect_mult,
        ..Timers::DEFAULT
    };
    let peers = (FIRST, SESSIONS);
    let plain = Plain::start(&hosts.here, HERE, peers, timers, Sends::Answers)?;
    let frames = frames(&hosts, plain::discriminator)?;
    begin(&hosts, &frames, || Ok(plain.up()))?;
    rate(&hosts, &frames, generators)
}

fn reflected(hook: &Hook, generators: usize) -> anyhow::Result<f64> {
    let hosts = hosts()?;
    let _sink = Bare::attach(&hosts.there, INTERFACE, hook.sink)?;
    let _reflector = Bare::attach(&hosts.here, INTERFACE, hook.reflector)?;
    let frames = frames(&hosts, |_| 1)?;
    rate(&hosts, &frames, generators)
}

/// Two hosts; the near one takes frames without socket buffers.
fn hosts() -> anyhow::Result<Hosts> {
    let hosts = Hosts::with_queues(thread::available_parallelism()?.get())?;
    hosts
        .here
        .command(&format!("ethtool -K {INTERFACE} gro on"))?;
    // The next hop is known, and stays so.
    hosts.here.command(&format!("ping -c 1 -W 5 {THERE}"))?;
    Ok(hosts)
}

/// What the peers say, to somebody who calls the ends of sessions so.
fn frames(hosts: &Hosts, name: fn(Ipv4Addr) -> u32) -> anyhow::Result<Vec<Vec<u8>>> {
    let frame = speakers::frames(&hosts.there, &hosts.here, TIMING.interval_us())?;
    let peers = (0..SESSIONS).map(peer);
    Ok(peers
        .map(|peer| frame((peer, 1), (HERE, name(peer))))
        .collect())
}

/// Has all sessions come Up.
fn begin(
    hosts: &Hosts,
    frames: &[Vec<u8>],
    up: impl Fn() -> anyhow::Result<u32>,
) -> anyhow::Result<()> {
    let frames = frames.iter().map(|frame| in_state(frame, State::Init));
    let frames = frames.collect::<anyhow::Result<Vec<_>>>()?;
    let generator = Generator::new(&hosts.there, INTERFACE, &frames)?;
    let generator = generator.live(&hosts.there, "begin")?;
    let begin = generator.start(&hosts.there, Pace::LiveFlood);
    eventually(PATIENCE, "all sessions Up", || {
        let up = up()?;
        ensure!(up == SESSIONS, "{up} are Up");
        anyhow::Ok(())
    })?;
    begin.stop()
}

/// What comes back per second while frames are sent.
fn rate(hosts: &Hosts, frames: &[Vec<u8>], generators: usize) -> anyhow::Result<f64> {
    // Each makes the packets of its own peers, as a device's queues have them.
    let shares = frames.chunks(frames.len().div_ceil(generators)).enumerate();
    let running = shares.map(|(cpu, share)| {
        let generator = Generator::new(&hosts.there, INTERFACE, share)?;
        let generator = generator.live(&hosts.there, &format!("cpu{cpu}"))?;
        Ok(generator.on(cpu).start(&hosts.there, Pace::LiveFlood))
    });
    let running: Vec<Running> = running.collect::<anyhow::Result<_>>()?;
    thread::sleep(SETTLE);
    let (begun, before) = (Instant::now(), crowd::received(&hosts.there)?);
    thread::sleep(WINDOW);
    let after = crowd::received(&hosts.there)?;
    let took = begun.elapsed().as_secs_f64();
    for generator in running {
        generator.stop()?;
    }
    ensure!(after > before, "nothing is answered");
    Ok((after - before) as f64 / took)
}
