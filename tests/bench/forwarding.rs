//! Bulk data through the tunnel (TCP, `iperf3`) with and without the agent, which keeps a thousand
//! sessions Up, the receiver's among them: the gate and the ingress program look at every packet.
//!
//! Runs with and without alternate, and each ratio is of two runs of the same half minute. That of
//! all is the median; its spread is the interval that has the true median in it in 19 of 20 cases,
//! by rank alone. Where the goal lies inside of that interval, or the interval is wider than what the
//! agent may cost, the machine was too noisy to tell.
//!
//! What a busy machine changes less: the share of a run that the agent's programs took of one
//! processor, by the kernel's own clock, in a run of its own, for that clock costs something.

use anyhow::ensure;

use crate::path::{Direction, Kind, Path, Setting};
use crate::row::{Goal, Row};
use crate::times::Times;

/// Runs under the kernel's clock.
const TIMED: usize = 3;
/// What the agent is to leave of the throughput, %.
const GOAL: f64 = 97.0;

/// Pairs of runs.
const fn rounds(kind: Kind) -> usize {
    match kind {
        Kind::VethTc | Kind::VethXdp => 12,
        // In emulation, mostly, where nothing is quick.
        Kind::Gre => 6,
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
        rows.extend(compare(&mut path, kind, Setting::Bare)?);
        if kind == Kind::VethXdp {
            // Any XDP program takes a veth pair's segmentation offload away.
            rows.extend(compare(&mut path, kind, Setting::EmptyXdp)?);
        }
    }
    Ok(rows)
}

/// The agent beside something simpler.
fn compare(path: &mut Path, kind: Kind, baseline: Setting) -> anyhow::Result<Vec<Row>> {
    let what = match baseline {
        Setting::Bare | Setting::Agent => kind.name().to_owned(),
        Setting::EmptyXdp => format!("{}_over_empty", kind.name()),
    };
    let rounds = rounds(kind);
    eprintln!("{what}: {rounds} pairs of runs in each direction");
    let mut measured = [Measured::default(), Measured::default()];
    for round in 0..rounds {
        let mut order = [baseline, Setting::Agent];
        if round % 2 == 1 {
            order.reverse();
        }
        for setting in order {
            path.set(setting)?;
            for (direction, measured) in Direction::ALL.iter().zip(&mut measured) {
                let rate = path.measure(*direction)?;
                if setting == Setting::Agent {
                    measured.agent.push(rate);
                } else {
                    measured.baseline.push(rate);
                }
            }
        }
    }
    // A veth pair without its offloads is not what anybody runs.
    let goal = (kind, baseline) != (Kind::VethXdp, Setting::Bare);
    let goal = goal.then_some(Goal::AtLeast(GOAL));
    path.set(Setting::Agent)?;
    let mut programs = Vec::new();
    for direction in Direction::ALL {
        let shares: Vec<_> = (0..TIMED)
            .map(|_| path.programs(direction))
            .collect::<anyhow::Result<_>>()?;
        let row = |part, unit, figures: Times| Row {
            name: format!("{what}/{}/{part}", direction.name()),
            value: figures.median(),
            unit,
            spread: Some(figures.spread()),
            baseline: None,
            goal: None,
            noisy: false,
        };
        let percent = Times::of(shares.iter().map(|share| share.percent));
        let per_packet = Times::of(shares.iter().map(|share| share.per_packet_ns));
        programs.push(row("in_programs", "%", percent));
        programs.push(row("per_packet", "ns", per_packet));
    }
    let rows = Direction::ALL.iter().zip(measured);
    Ok(rows
        .flat_map(|(direction, measured)| {
            measured.rows(&format!("{what}/{}", direction.name()), goal)
        })
        .chain(programs)
        .collect())
}

/// bit/s of each round.
#[derive(Default)]
struct Measured {
    baseline: Vec<f64>,
    agent: Vec<f64>,
}

impl Measured {
    fn rows(&self, name: &str, goal: Option<Goal>) -> [Row; 2] {
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
                noisy: (low < GOAL && GOAL <= high) || high - low > 2.0 * (100.0 - GOAL),
            },
        ]
    }
}
