//! As many sessions as anybody has: whether they stay Up for a minute, and what memory they take.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use dz_agent::datapath::MapReader;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::INTERFACE;

use crate::crowd::{Hosts, Timing};
use crate::memory;
use crate::row::{Goal, Row};

const SESSIONS: u32 = 100_000;
const TIMING: Timing = Timing {
    interval_ms: 1_000,
    detect_mult: 3,
};
const TIME: Duration = Duration::from_secs(60);

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let hosts = Hosts::new()?;
    let _far = Bare::attach(&hosts.there, INTERFACE, Program::RespondEthernet)?;
    eprintln!("connecting {SESSIONS} peers");
    let mut agent = hosts.agent_with_sessions(SESSIONS, TIMING, &["--attach=tc"])?;
    eprintln!("{} s of nothing", TIME.as_secs());
    let before = transitions(&agent)?;
    thread::sleep(TIME);
    let flaps = transitions(&agent)? - before;
    let row = |name: &str, value: f64, unit, most| Row {
        name: name.to_owned(),
        value,
        unit,
        spread: None,
        baseline: None,
        goal: Some(Goal::AtMost(most)),
        noisy: false,
    };
    let resident = memory::resident(&mut agent)? as f64 / 1e6;
    let kernel = memory::of_maps(&agent)? as f64 / f64::from(SESSIONS);
    Ok(vec![
        row("state_changes", flaps as f64, "", 0.0),
        row("agent_memory", resident, "MB", 100.0),
        row("kernel_memory_per_session", kernel, "B", 512.0),
    ])
}

/// How often any session has changed its state.
fn transitions(agent: &Agent) -> anyhow::Result<u64> {
    let maps = MapReader::from_pins(agent.home().pin_dir())?;
    let changes = maps.sessions()?.into_iter();
    Ok(changes
        .map(|entry| u64::from(entry.session.transitions))
        .sum())
}
