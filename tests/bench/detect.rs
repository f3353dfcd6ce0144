//! From a deadline to the verdict of the kernel programs, and from there to the end of the route, by
//! the kernel's clock: peers that fall silent one by one among 10,000, and all of them at once.
//!
//! - A deadline is when the last packet came and the detection time after it; the event of the verdict
//!   says both the verdict's moment and, by the first packet that was missing, the deadline's.
//! - The route's end is when its notification has been read, as in the bench `transaction`.
//! - Forwarding stops with the verdict itself: the gate looks at the session for each packet.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::Event;
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::INTERFACE;
use dz_tests::route_log::RouteLog;
use dz_tests::wait::eventually;

use crate::crowd::{self, Hosts, QUICK};
use crate::events::Events;
use crate::generator::{Generator, Pace, Running};
use crate::row::{Goal, Row};
use crate::speakers::{self, TICK_MS};
use crate::times::Times;
use crate::wakeups::Wakeups;

const SESSIONS: u32 = 10_000;
/// Peers that fall silent at a time: their deadlines are some 20 ms apart.
const SILENT: u32 = 10;
const REPETITIONS: u32 = 20;
/// How often all of them do.
const ALL: usize = 5;
/// Of how late verdicts are. All of them together count; each time shows as the spread.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
/// How late a verdict is to be at most, µs.
const LATE_US: f64 = 1_500.0;
/// As in the bench `transaction`, µs.
const NOISE_WAKEUP: f64 = 250.0;

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut bed = Bed::new()?;
    let mut rows = bed.singles()?;
    rows.extend(bed.all()?);
    Ok(rows)
}

/// Declared in the order of dropping.
struct Bed {
    peers: Option<Running>,
    frames: Vec<Vec<u8>>,
    agent: Agent,
    events: Events,
    log: RouteLog,
    _sink: Bare,
    hosts: Hosts,
}

/// What was seen of peers that fell silent, ns.
#[derive(Default)]
struct Seen {
    late: Vec<u64>,
    route_gone: Vec<u64>,
    /// From the last verdict to the end of the last route.
    last_route_gone: Vec<u64>,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let hosts = Hosts::new()?;
        let far = Bare::attach(&hosts.there, INTERFACE, Program::RespondEthernet)?;
        let log = RouteLog::start(&hosts.here)?;
        let agent = hosts.agent_with_sessions(SESSIONS, QUICK, &["--attach=tc"])?;
        let sink = Bare::attach(&hosts.there, INTERFACE, Program::SinkEthernet)?;
        let maps = MapReader::from_pins(agent.home().pin_dir())?;
        let frames = speakers::frames_to(&hosts, maps.sessions()?.iter(), QUICK.interval_us())?;
        let events = Events::open(agent.home().pin_dir())?;
        let mut bed = Self {
            peers: None,
            frames,
            agent,
            events,
            log,
            _sink: sink,
            hosts,
        };
        bed.speak()?;
        drop(far);
        bed.until_heard()?;
        Ok(bed)
    }

    /// Has all peers say that they are there.
    fn speak(&mut self) -> anyhow::Result<()> {
        let generator = Generator::new(&self.hosts.there, INTERFACE, &self.frames)?;
        let rate = f64::from(SESSIONS) * 1_000.0 / TICK_MS;
        let pace = Pace::Rate {
            per_second: rate,
            every: Duration::from_millis(5),
        };
        self.peers = Some(generator.start(&self.hosts.there, pace));
        Ok(())
    }

    /// Waits until every peer has said something: what the far end's program has said before them is
    /// not what they say.
    fn until_heard(&mut self) -> anyhow::Result<()> {
        let before = self.peers()?.sent();
        eventually(PATIENCE, "a word of every peer", || {
            thread::sleep(LOOK);
            let sent = self.peers()?.sent() - before;
            ensure!(sent >= 2 * u64::from(SESSIONS), "{sent} packets");
            anyhow::Ok(())
        })?;
        self.until_up()
    }

    fn until_up(&mut self) -> anyhow::Result<()> {
        crowd::until_up(&self.agent, &self.hosts.here, SESSIONS)
    }

    fn singles(&mut self) -> anyhow::Result<Vec<Row>> {
        eprintln!("{SILENT} of {SESSIONS} peers fall silent, {REPETITIONS} times");
        let mut wakeups = Wakeups::new()?;
        let (mut seen, mut woken) = (Seen::default(), Vec::new());
        for repetition in 0..REPETITIONS {
            self.events.take()?;
            let from = self.log.len();
            let apart = SESSIONS / SILENT;
            let silent: Vec<_> = (0..SILENT).map(|n| n * apart + repetition * 7).collect();
            for number in &silent {
                // The next one says it twice.
                let other = self.frames[*number as usize + 1].clone();
                self.peers()?.replace(*number, &other)?;
            }
            self.look(from, silent.len(), &mut seen)?;
            for number in &silent {
                let frame = self.frames[*number as usize].clone();
                self.peers()?.replace(*number, &frame)?;
            }
            self.until_up()?;
            for _ in 0..50 {
                woken.push(wakeups.round_trip()?);
            }
        }
        let noisy = Times::of_ns(woken).quantile(0.99) > NOISE_WAKEUP;
        let mut rows = quantiles(
            "single/verdict_late",
            &seen.late,
            noisy,
            &[("p99", LATE_US)],
        );
        rows.extend(quantiles(
            "single/route_gone",
            &seen.route_gone,
            noisy,
            &[("p50", 500.0), ("p99", 1_000.0)],
        ));
        Ok(rows)
    }

    fn all(&mut self) -> anyhow::Result<Vec<Row>> {
        eprintln!("all {SESSIONS} peers fall silent, {ALL} times");
        let mut seen = Seen::default();
        let mut repetitions = Vec::new();
        for _ in 0..ALL {
            self.events.take()?;
            let (from, before) = (self.log.len(), seen.late.len());
            self.peers.take().context("nobody speaks")?.stop()?;
            self.look(from, SESSIONS as usize, &mut seen)?;
            repetitions.push(Times::of_ns(seen.late[before..].iter().copied()));
            self.speak()?;
            self.until_heard()?;
        }
        let mut rows = quantiles("all/verdict_late", &seen.late, false, &[("p99", LATE_US)]);
        for (row, (_, part)) in rows.iter_mut().zip(QUANTILES) {
            let each = Times::of(repetitions.iter().map(|times| times.quantile(part)));
            row.spread = Some(each.spread());
        }
        let last = Times::of_ns(seen.last_route_gone);
        rows.push(Row {
            name: "all/routes_gone".to_owned(),
            value: last.median(),
            unit: "us",
            spread: Some(last.spread()),
            baseline: None,
            goal: Some(Goal::AtMost(300_000.0)),
            noisy: false,
        });
        Ok(rows)
    }

    fn peers(&mut self) -> anyhow::Result<&mut Running> {
        self.peers.as_mut().context("nobody speaks")
    }

    /// Waits for so many verdicts, and the ends of their routes.
    fn look(&mut self, from: usize, silent: usize, seen: &mut Seen) -> anyhow::Result<()> {
        let mut verdicts: HashMap<Ipv4Addr, Event> = HashMap::new();
        eventually(PATIENCE, "silent peers Down", || {
            thread::sleep(LOOK);
            for event in self.events.take()? {
                if event.to == State::Down {
                    verdicts.insert(event.key.peer.into(), event);
                }
            }
            ensure!(verdicts.len() >= silent, "{} are Down", verdicts.len());
            anyhow::Ok(())
        })?;
        let changes = self.log.wait(from, PATIENCE, |news| {
            news.iter().filter(|change| change.gone).count() >= silent
        })?;
        ensure!(verdicts.len() == silent, "others went Down, too");
        let mut last_gone_ns = 0;
        for change in changes.iter().filter(|change| change.gone) {
            let verdict = verdicts
                .get(&change.route.dst)
                .context("a route too many")?;
            seen.late.push(late_ns(verdict)?);
            let gone_ns = change.read_ns;
            seen.route_gone.push(gone_ns.saturating_sub(verdict.at_ns));
            last_gone_ns = gone_ns.max(last_gone_ns);
        }
        let last_ns = verdicts.values().map(|verdict| verdict.at_ns).max();
        let after_ns = last_gone_ns.saturating_sub(last_ns.unwrap_or(0));
        seen.last_route_gone.push(after_ns);
        Ok(())
    }
}

/// How long after the deadline the verdict was: the first packet was missing one interval after the
/// last, and the deadline is the others later.
fn late_ns(verdict: &Event) -> anyhow::Result<u64> {
    ensure!(verdict.reason == DownReason::Timeout, "{verdict:?}");
    let interval_ns = u64::from(QUICK.interval_ms) * 1_000_000;
    let deadline_ns = verdict.since_ns + (u64::from(QUICK.detect_mult) - 1) * interval_ns;
    let late_ns = verdict.at_ns.checked_sub(deadline_ns);
    late_ns.context("a verdict before its deadline")
}

fn quantiles(name: &str, times_ns: &[u64], noisy: bool, goals: &[(&str, f64)]) -> Vec<Row> {
    let times = Times::of_ns(times_ns.iter().copied());
    QUANTILES
        .map(|(quantile, part)| {
            let goal = goals.iter().find(|(of, _)| *of == quantile);
            Row {
                name: format!("{name}/{quantile}"),
                value: times.quantile(part),
                unit: "us",
                spread: None,
                baseline: None,
                goal: goal.map(|(_, most)| Goal::AtMost(*most)),
                noisy,
            }
        })
        .into()
}
