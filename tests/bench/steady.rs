//! What keeping sessions Up costs, and nothing else happens: processor time of the whole machine,
//! softirqs included, less that of the packets alone.
//!
//! Sessions run at 300 ms × 3. Either we do all the transmitting, and the far end, a kernel program,
//! answers; or the peers' clocks tick first (a program that sends for each of them every 255 ms), and
//! we answer. The packets alone: as many per second, made and sent back by bare kernel programs.
//!
//! Baselines, one after the other on the same wire: the same state machine over a UDP socket, and BFD
//! as BIRD keeps it, which always transmits by its own clock.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use dz_agent::datapath::MapReader;
use dz_common::session::Timers;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::bird::Bird;
use dz_tests::wait::eventually;

use crate::crowd::{self, FIRST, Hosts, QUICK, peer};
use crate::generator::{Generator, Pace};
use crate::plain::{Plain, Sends};
use crate::row::{Goal, Row};
use crate::run_time::run_ns;
use crate::speakers::{self, TICK_MS};
use crate::times::Times;
use crate::{bird_bfd, cpu, plain};

const ROUNDS: usize = 3;
/// How long is measured, after how long.
const WINDOW: Duration = Duration::from_secs(8);
const SETTLE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(120);

/// Whose clock has the packets sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Ours,
    Theirs,
}

impl Clock {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "transmitting",
            Self::Theirs => "answering",
        }
    }
}

/// Who keeps the sessions.
enum Keeper {
    Agent(Agent),
    Plain(Plain),
    Bird(Bird),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Agent,
    Plain,
    Bird,
}

/// What was measured of one of them.
struct Load {
    /// % of one processor, less what the packets alone take.
    busy: f64,
    /// Packets received per second.
    packets: f64,
    /// What the agent's threads did.
    threads: Option<Threads>,
}

/// Of all threads of the agent together, since they began or per second.
#[derive(Clone, Copy, Default)]
struct Threads {
    /// How often they have waited for something.
    wakeups: f64,
    /// Processor time, s.
    busy: f64,
}

impl Threads {
    fn of(agent: &mut Agent) -> anyhow::Result<Self> {
        Ok(Self {
            wakeups: wakeups(agent)?,
            busy: run_ns(agent)? / 1e9,
        })
    }

    fn per_second(self, before: Self, time: Duration) -> Self {
        Self {
            wakeups: (self.wakeups - before.wakeups) / time.as_secs_f64(),
            busy: (self.busy - before.busy) / time.as_secs_f64(),
        }
    }
}

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut rows = vec![idle()?];
    for sessions in [1_000, 10_000] {
        for clock in [Clock::Ours, Clock::Theirs] {
            rows.extend(compare(sessions, clock)?);
        }
    }
    Ok(rows)
}

/// An agent without sessions.
fn idle() -> anyhow::Result<Row> {
    let hosts = Hosts::new()?;
    let mut agent = hosts.agent(1_000, QUICK, &[])?;
    thread::sleep(SETTLE);
    let before = Threads::of(&mut agent)?;
    thread::sleep(WINDOW);
    let figures = Threads::of(&mut agent)?.per_second(before, WINDOW);
    Ok(plain_row(
        "0/agent/wakeups".to_owned(),
        figures.wakeups,
        "1/s",
    ))
}

fn compare(sessions: u32, clock: Clock) -> anyhow::Result<Vec<Row>> {
    let mut kinds = vec![Kind::Agent, Kind::Plain];
    if sessions <= 1_000 {
        kinds.push(Kind::Bird);
    }
    let mut loads: Vec<Vec<Load>> = kinds.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        for (kind, loads) in kinds.iter().zip(&mut loads) {
            // BIRD always transmits by its own clock, and that is what it is compared by.
            let clock = if *kind == Kind::Bird {
                Clock::Ours
            } else {
                clock
            };
            let load = measure(*kind, sessions, clock)?;
            eprintln!(
                "{sessions} sessions, {}, round {}: {kind:?} {:.2} % of a processor, {:.0} packets/s",
                clock.name(),
                round + 1,
                load.busy,
                load.packets
            );
            loads.push(load);
        }
    }
    let prefix = format!("{sessions}/{}", clock.name());
    let figures = |of: usize, figure: fn(&Load) -> f64| Times::of(loads[of].iter().map(figure));
    let mut rows = Vec::new();
    for (of, kind) in kinds.iter().enumerate() {
        let who = format!("{kind:?}").to_lowercase();
        rows.push(spread(
            format!("{prefix}/{who}/busy"),
            &figures(of, |load| load.busy),
            "%",
        ));
        let packets = figures(of, |load| load.packets);
        rows.push(spread(format!("{prefix}/{who}/packets"), &packets, "1/s"));
    }
    let wakeups = figures(0, |load| load.threads.unwrap_or_default().wakeups);
    rows.push(spread(format!("{prefix}/agent/wakeups"), &wakeups, "1/s"));
    let threads = figures(0, |load| load.threads.unwrap_or_default().busy * 100.0);
    rows.push(spread(format!("{prefix}/agent/threads"), &threads, "%"));
    for (of, kind) in kinds.iter().enumerate().skip(1) {
        let pairs = loads[0].iter().zip(&loads[of]);
        let ratios = Times::of(pairs.map(|(ours, theirs)| ours.busy / theirs.busy));
        let goal = match (kind, sessions) {
            (Kind::Bird, _) => Some(0.1),
            (_, 10_000) => Some(1.0 / 3.0),
            _ => None,
        };
        let who = format!("{kind:?}").to_lowercase();
        let [low, high] = ratios.spread();
        rows.push(Row {
            goal: goal.map(Goal::AtMost),
            noisy: goal.is_some_and(|goal| low <= goal && goal < high),
            ..spread(format!("{prefix}/agent_to_{who}"), &ratios, "times")
        });
    }
    Ok(rows)
}

/// One of them for a while, and then the packets alone.
fn measure(kind: Kind, sessions: u32, clock: Clock) -> anyhow::Result<Load> {
    let (busy, packets, threads) = kept(kind, sessions, clock)?;
    let packets_alone = alone(sessions, clock, packets)?;
    Ok(Load {
        busy: busy - packets_alone,
        packets,
        threads,
    })
}

fn kept(kind: Kind, sessions: u32, clock: Clock) -> anyhow::Result<(f64, f64, Option<Threads>)> {
    let hosts = Hosts::new()?;
    let far = Bare::attach(
        &hosts.there,
        INTERFACE,
        match kind {
            Kind::Bird => Program::RespondBfd,
            _ => Program::RespondEthernet,
        },
    )?;
    let mut keeper = keeper(kind, &hosts, sessions, clock)?;
    let mut speaking = None;
    if clock == Clock::Theirs {
        let sink = Bare::attach(&hosts.there, INTERFACE, Program::SinkEthernet)?;
        let frames = keeper.spoken_to(&hosts, sessions)?;
        let generator = Generator::new(&hosts.there, INTERFACE, &frames)?;
        let rate = f64::from(sessions) * 1_000.0 / TICK_MS;
        speaking = Some((generator.start(&hosts.there, pace(rate)), sink));
    }
    // What answers by itself does not speak first.
    let _far = (clock == Clock::Ours).then_some(far);
    thread::sleep(SETTLE);
    let threads = keeper.threads()?;
    let before = crowd::received(&hosts.here)?;
    let busy = cpu::busy(WINDOW)?;
    let packets = (crowd::received(&hosts.here)? - before) as f64 / WINDOW.as_secs_f64();
    let threads = keeper.threads()?.zip(threads);
    let up = keeper.up()?;
    drop(speaking);
    ensure!(up == sessions, "{kind:?}: only {up} of {sessions} stay Up");
    Ok((
        busy,
        packets,
        threads.map(|(after, before)| after.per_second(before, WINDOW)),
    ))
}

fn keeper(kind: Kind, hosts: &Hosts, sessions: u32, clock: Clock) -> anyhow::Result<Keeper> {
    if kind != Kind::Agent {
        hosts.route_to_peers()?;
    }
    let keeper = match kind {
        Kind::Agent => {
            Keeper::Agent(hosts.agent_with_sessions(sessions, QUICK, &["--attach=tc"])?)
        }
        Kind::Plain => {
            let interval_us = QUICK.interval_us();
            let timers = Timers {
                desired_min_tx_us: interval_us,
                required_min_rx_us: interval_us,
                detect_mult: QUICK.detect_mult,
                ..Timers::DEFAULT
            };
            let peers = (FIRST, sessions);
            let sends = match clock {
                Clock::Ours => Sends::Itself,
                Clock::Theirs => Sends::AnswersToo,
            };
            Keeper::Plain(Plain::start(&hosts.here, HERE, peers, timers, sends)?)
        }
        Kind::Bird => Keeper::Bird(bird_bfd::start(&hosts.here, sessions, QUICK)?),
    };
    eventually(PATIENCE, "all sessions Up", || {
        let up = keeper.up()?;
        ensure!(up == sessions, "{up} are Up");
        anyhow::Ok(())
    })?;
    Ok(keeper)
}

impl Keeper {
    fn up(&self) -> anyhow::Result<u32> {
        match self {
            Self::Agent(agent) => crowd::up(agent),
            Self::Plain(plain) => Ok(plain.up()),
            Self::Bird(bird) => bird_bfd::up(bird),
        }
    }

    /// What its peers say.
    fn spoken_to(&self, hosts: &Hosts, sessions: u32) -> anyhow::Result<Vec<Vec<u8>>> {
        if let Self::Agent(agent) = self {
            let maps = MapReader::from_pins(agent.home().pin_dir())?;
            return speakers::frames_to(hosts, maps.sessions()?.iter(), QUICK.interval_us());
        }
        let frame = speakers::frames(&hosts.there, &hosts.here, QUICK.interval_us())?;
        let peers = (0..sessions).map(peer);
        Ok(peers
            .map(|peer| frame((peer, 1), (HERE, plain::discriminator(peer))))
            .collect())
    }

    fn threads(&mut self) -> anyhow::Result<Option<Threads>> {
        match self {
            Self::Agent(agent) => Threads::of(agent).map(Some),
            _ => Ok(None),
        }
    }
}

/// As seldom as the agent speaks: what is subtracted must not be more than packets.
const fn pace(per_second: f64) -> Pace {
    Pace::Rate {
        per_second,
        every: Duration::from_millis(17),
    }
}

/// What the packets alone take, % of one processor.
fn alone(sessions: u32, clock: Clock, per_second: f64) -> anyhow::Result<f64> {
    let hosts = Hosts::new()?;
    let (from, to, end) = match clock {
        Clock::Ours => (&hosts.here, &hosts.there, Program::RespondEthernet),
        Clock::Theirs => (&hosts.there, &hosts.here, Program::ReflectEthernet),
    };
    let _far = Bare::attach(to, INTERFACE, end)?;
    let _sink = Bare::attach(from, INTERFACE, Program::SinkEthernet)?;
    let frame = speakers::frames(from, to, QUICK.interval_us())?;
    let frames: Vec<_> = (0..sessions)
        .map(peer)
        .map(|peer| match clock {
            Clock::Ours => frame((HERE, 1), (peer, 1)),
            Clock::Theirs => frame((peer, 1), (HERE, 1)),
        })
        .collect();
    let _generator = Generator::new(from, INTERFACE, &frames)?.start(from, pace(per_second));
    thread::sleep(SETTLE);
    cpu::busy(WINDOW)
}

/// How often threads of the agent have waited for something.
fn wakeups(agent: &mut Agent) -> anyhow::Result<f64> {
    let tasks = format!("/proc/{}/task", agent.process().pid());
    let mut waited = 0.0;
    for task in std::fs::read_dir(&tasks).context(tasks)? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        waited += line.context("no count of waits")?.trim().parse::<f64>()?;
    }
    Ok(waited)
}

fn plain_row(name: String, value: f64, unit: &'static str) -> Row {
    Row {
        name,
        value,
        unit,
        spread: None,
        baseline: None,
        goal: None,
        noisy: false,
    }
}

fn spread(name: String, figures: &Times, unit: &'static str) -> Row {
    Row {
        spread: Some(figures.spread()),
        ..plain_row(name, figures.median(), unit)
    }
}
