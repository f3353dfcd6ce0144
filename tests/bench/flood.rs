//! Packets that are nobody's business, or pretend to be a peer's, as many as one processor can send,
//! beside 1,000 sessions that are Up: whether any of them notices, and whether the agent does.
//!
//! What each of the packets costs the bench `answer` says.

use std::time::{Duration, Instant};

use anyhow::ensure;
use dz_agent::datapath::MapReader;
use dz_common::map::SessionEntry;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{HERE, INTERFACE};

use crate::crowd::{Hosts, QUICK, peer};
use crate::generator::{Generator, Pace};
use crate::row::{Goal, Row};
use crate::run_time::busy;
use crate::speakers::{self, PAYLOAD, without_checksum};
use crate::times::Times;

const SESSIONS: u32 = 1_000;
/// Strangers: behind the peers.
const STRANGERS: u32 = 10_000;
const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_secs(4);
/// Where a liveness packet's length byte and the receiver's discriminator are in a frame.
const LENGTH: usize = PAYLOAD + 3;
const YOUR_DISCRIMINATOR: usize = PAYLOAD + 8;
/// Packets per second.
const LEAST: f64 = 500_000.0;
/// By how much the agent may do more, with another processor's worth of work in the same caches.
const UNCHANGED: f64 = 1.25;

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let hosts = Hosts::new()?;
    let _far = Bare::attach(&hosts.there, INTERFACE, Program::RespondEthernet)?;
    let mut agent = hosts.agent_with_sessions(SESSIONS, QUICK, &["--attach=tc"])?;
    let mut rows = Vec::new();
    for (name, frames) in floods(&hosts, &agent)? {
        let (mut rates, mut ratios, mut flaps) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let before = transitions(&sessions(&agent)?);
            let quiet = busy(&mut agent, WINDOW)?;
            let flood = Generator::new(&hosts.there, INTERFACE, &frames)?;
            let flood = flood.start(&hosts.there, Pace::Flood);
            let (begun, sent) = (Instant::now(), flood.sent());
            let flooded = busy(&mut agent, WINDOW)?;
            rates.push((flood.sent() - sent) as f64 / begun.elapsed().as_secs_f64());
            flood.stop()?;
            ratios.push(flooded / quiet);
            flaps += transitions(&sessions(&agent)?) - before;
        }
        let row = |what: &str, figures: &Times, unit, goal: Goal| Row {
            name: format!("{name}/{what}"),
            value: figures.median(),
            unit,
            spread: Some(figures.spread()),
            baseline: None,
            goal: Some(goal),
            noisy: false,
        };
        let rates = Times::of(rates);
        rows.push(row("packets", &rates, "1/s", Goal::AtLeast(LEAST)));
        let ratios = Times::of(ratios);
        let limit = Goal::AtMost(UNCHANGED);
        rows.push(row("agent_to_quiet_agent", &ratios, "times", limit));
        let flaps = Times::of([flaps as f64]);
        rows.push(row("state_changes", &flaps, "", Goal::AtMost(0.0)));
    }
    Ok(rows)
}

/// Its name, and what to send.
type Flood = (&'static str, Vec<Vec<u8>>);

fn floods(hosts: &Hosts, agent: &Agent) -> anyhow::Result<[Flood; 3]> {
    let said = speakers::frames_to(hosts, sessions(agent)?.iter(), QUICK.interval_us())?;
    let frame = speakers::frames(&hosts.there, &hosts.here, QUICK.interval_us())?;
    let stranger = |number| frame((peer(SESSIONS + number), 1), (HERE, 1));
    let changed = |at: usize| {
        let mut said = said.clone();
        for frame in &mut said {
            frame[at] ^= 1;
            without_checksum(frame);
        }
        said
    };
    Ok([
        ("unknown_peer", (0..STRANGERS).map(stranger).collect()),
        ("malformed", changed(LENGTH)),
        ("wrong_discriminator", changed(YOUR_DISCRIMINATOR)),
    ])
}

fn sessions(agent: &Agent) -> anyhow::Result<Vec<SessionEntry>> {
    Ok(MapReader::from_pins(agent.home().pin_dir())?.sessions()?)
}

fn transitions(sessions: &[SessionEntry]) -> u64 {
    let changes = sessions.iter();
    changes
        .map(|entry| u64::from(entry.session.transitions))
        .sum()
}
