//! Bulk data through the tunnel (TCP, `iperf3`) with and without the agent, which keeps a thousand
//! sessions Up, the receiver's among them: the gate and the ingress program look at every packet.
//!
//! There are two tunnels alike, and each has a connection, from time to time a new one. The data flows
//! through one of them for a moment, then through the other, and so on; while it is the other's turn
//! the agent and with it the sessions' packets stand still. When it goes on, it first catches up, before
//! any data flows; and the moments are such that at least as many sessions' packets fall into them as
//! without any of this, which is counted and shown. What is compared are two moments that
//! follow each other, for the throughput of a machine that others use, too, is not the same for long.
//! The ratio of all is the median; its spread is the interval that has the true median in it in 19 of
//! 20 cases, by rank alone. Where the goal lies inside of that interval the machine was too noisy to
//! tell.
//!
//! What a busy machine changes less: the share of a run that the agent's programs took of one
//! processor, by the kernel's own clock, in a run of its own, for that clock costs something.

use std::time::Duration;

use anyhow::ensure;

use crate::flows::{Direction, Flow};
use crate::path::{Kind, Path};
use crate::row::{Goal, Row};
use crate::times::Times;

/// Runs under the kernel's clock, and how long each is.
const TIMED: usize = 3;
const TIMED_RUN: Duration = Duration::from_secs(2);
/// What the agent is to leave of the throughput, %.
const GOAL: f64 = 97.0;

/// Connections are made anew after so many pairs: where a connection's memory and its packets' queues
/// happen to lie makes it some per cent faster or slower than the next one for as long as it lives.
const PAIRS_PER_CONNECTION: usize = 20;

/// Pairs of moments, and how long each of their parts is.
#[derive(Clone, Copy)]
struct Pace {
    rounds: usize,
    /// The agent alone.
    catch_up: Duration,
    /// With data, and not counted.
    lead: Duration,
    moment: Duration,
}

impl Pace {
    /// Sessions send 0.9 to 1.1 s after they have sent last. Either a pair of moments is much shorter than
    /// that, or a moment is as long: what all send when the agent goes on is over before it, and what
    /// they send next falls into it.
    const fn of(kind: Kind, has_goal: bool) -> Self {
        match kind {
            _ if !has_goal => Self::short(50),
            Kind::VethTc => Self::long(25),
            Kind::VethXdp => Self::short(400),
            // In emulation, mostly, whose time is instructions: one moment is like the other, and slow.
            Kind::Gre => Self::long(10),
        }
    }

    /// Holds as many of the sessions' packets as are sent in operation.
    const fn long(rounds: usize) -> Self {
        Self {
            rounds,
            catch_up: Duration::from_millis(250),
            lead: Duration::from_millis(250),
            moment: Duration::from_secs(1),
        }
    }

    /// Holds more of them.
    const fn short(rounds: usize) -> Self {
        Self {
            rounds,
            catch_up: Duration::from_millis(20),
            lead: Duration::from_millis(55),
            moment: Duration::from_millis(100),
        }
    }
}

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let all = [Kind::VethTc, Kind::VethXdp, Kind::Gre];
    let wanted = |kind: &Kind| part.is_none_or(|part| part == kind.name());
    ensure!(all.iter().any(wanted), "no part {part:?}");
    let mut rows = Vec::new();
    for kind in all.into_iter().filter(wanted) {
        if let Some(reason) = kind.missing() {
            eprintln!("{}: skipped: {reason}", kind.name());
            continue;
        }
        let mut path = Path::new(kind)?;
        let name = kind.name();
        if kind == Kind::VethXdp {
            // Any XDP program takes a veth pair's segmentation offload away, which nobody who wants
            // throughput runs without: no goal.
            rows.extend(compare(&mut path, kind, name, None)?);
            path.empty_xdp()?;
            let name = format!("{name}_over_empty");
            rows.extend(compare(&mut path, kind, &name, Some(Goal::AtLeast(GOAL)))?);
        } else {
            rows.extend(compare(&mut path, kind, name, Some(Goal::AtLeast(GOAL)))?);
        }
    }
    Ok(rows)
}

/// The agent's tunnel beside the other one.
fn compare(
    path: &mut Path,
    kind: Kind,
    name: &str,
    goal: Option<Goal>,
) -> anyhow::Result<Vec<Row>> {
    let pace = Pace::of(kind, goal.is_some());
    let Pace { rounds, lead, .. } = pace;
    let sent = path.transmissions()?;
    let mut rows = Vec::new();
    for direction in Direction::ALL {
        let name = format!("{name}/{}", direction.name());
        eprintln!("{name}: {rounds} pairs of {} ms", pace.moment.as_millis());
        let mut flows = path.flows(direction)?;
        let mut measured = Measured::default();
        for round in 0..rounds {
            if round % PAIRS_PER_CONNECTION == 0 && round > 0 {
                drop(flows);
                flows = path.flows(direction)?;
            }
            for served in [round % 2 == 0, round % 2 != 0] {
                if served {
                    let run = || flows[0].measure(lead, pace.moment, || sent.count());
                    let (rate, sent) = path.with_agent(pace.catch_up, run)?;
                    measured.agent.push(rate);
                    measured.sent.push(sent);
                } else {
                    let (rate, _) = flows[1].measure(lead, pace.moment, || Ok(0))?;
                    measured.baseline.push(rate);
                }
            }
            measured.put_stalled_aside();
            path.ensure_up()?;
        }
        measured.ensure_few_stalled(&name, rounds)?;
        rows.extend(measured.rows(&name, goal));
        rows.extend(programs(path, &name, pace, &flows[0])?);
    }
    Ok(rows)
}

fn programs(path: &mut Path, name: &str, pace: Pace, flow: &Flow) -> anyhow::Result<[Row; 2]> {
    let run = || flow.measure(pace.lead, TIMED_RUN, || Ok(0));
    let shares: Vec<_> = (0..TIMED)
        .map(|_| path.programs(pace.catch_up, run))
        .collect::<anyhow::Result<_>>()?;
    let percent = Times::of(shares.iter().map(|share| share.percent));
    let per_packet = Times::of(shares.iter().map(|share| share.per_packet_ns));
    Ok([
        context(format!("{name}/in_programs"), "%", &percent),
        context(format!("{name}/per_packet"), "ns", &per_packet),
    ])
}

/// A row without a goal.
fn context(name: String, unit: &'static str, figures: &Times) -> Row {
    Row {
        name,
        value: figures.median(),
        unit,
        spread: Some(figures.spread()),
        baseline: None,
        goal: None,
        noisy: false,
    }
}

/// bit/s of each round.
#[derive(Default)]
struct Measured {
    baseline: Vec<f64>,
    agent: Vec<f64>,
    /// The sessions' packets per second of each moment with the agent.
    sent: Vec<f64>,
    /// Moments in which nothing arrived, with the agent and without.
    stalled: [usize; 2],
}

impl Measured {
    /// A round without data has no ratio; it is counted and left out.
    fn put_stalled_aside(&mut self) {
        let of = |rates: &[f64]| rates.last().is_some_and(|rate| *rate <= 0.0);
        let stalled = [of(&self.agent), of(&self.baseline)];
        for (count, stalled) in self.stalled.iter_mut().zip(stalled) {
            *count += usize::from(stalled);
        }
        if stalled.contains(&true) {
            self.agent.pop();
            self.sent.pop();
            self.baseline.pop();
        }
    }

    /// # Errors
    /// So many that the others do not tell what it was like.
    fn ensure_few_stalled(&self, name: &str, rounds: usize) -> anyhow::Result<()> {
        let [agent, baseline] = self.stalled;
        if agent + baseline > 0 {
            eprintln!("{name}: {agent} moments without data with the agent, {baseline} without");
        }
        ensure!(
            10 * (agent + baseline) <= rounds,
            "{name}: no data in {agent} moments with the agent and {baseline} without, of {rounds}"
        );
        Ok(())
    }

    fn rows(&self, name: &str, goal: Option<Goal>) -> [Row; 3] {
        let rates = |rates: &[f64]| Times::of(rates.iter().map(|rate| rate / 1e6));
        let (agent, baseline) = (rates(&self.agent), rates(&self.baseline));
        let pairs = self.agent.iter().zip(&self.baseline);
        let ratios = Times::of(pairs.map(|(agent, baseline)| 100.0 * agent / baseline));
        let [low, high] = ratios.median_interval();
        [
            Row {
                name: format!("{name}/throughput"),
                value: agent.median(),
                unit: "Mbit/s",
                spread: Some(agent.spread()),
                baseline: Some(baseline.median()),
                goal: None,
                noisy: false,
            },
            Row {
                name: format!("{name}/share"),
                value: ratios.median(),
                unit: "%",
                spread: Some([low, high]),
                baseline: None,
                goal,
                noisy: low < GOAL && GOAL <= high,
            },
            // Across all of them: those of a short moment say little.
            Row {
                value: self.sent.iter().sum::<f64>() / self.sent.len().max(1) as f64,
                spread: None,
                ..context(format!("{name}/sent"), "/s", &Times::default())
            },
        ]
    }
}
