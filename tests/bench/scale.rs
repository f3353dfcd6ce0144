//! As many sessions as anybody has: whether they stay Up for a minute, and what memory they take.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::MapData;
use dz_agent::datapath::MapReader;
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::INTERFACE;

use crate::crowd::{Hosts, Timing};
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
    let resident = resident_bytes(&mut agent)? as f64 / 1e6;
    let kernel = map_bytes(&agent)? as f64 / f64::from(SESSIONS);
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

/// What of the agent's memory is in memory.
pub(crate) fn resident_bytes(agent: &mut Agent) -> anyhow::Result<u64> {
    let status = format!("/proc/{}/status", agent.process().pid());
    let status = fs::read_to_string(&status).context(status)?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
    let kilobytes: u64 = resident.context("no VmRSS")?.parse()?;
    Ok(1_024 * kilobytes)
}

/// What the maps take, by the kernel's own count, whatever they hold.
pub(crate) fn map_bytes(agent: &Agent) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for name in dz_agent::datapath::MAPS {
        let map = MapData::from_pin(agent.home().pin_dir().join(name))?;
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let info = fs::read_to_string(&info).context(info)?;
        let locked = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes += locked.context("no memlock")?.trim().parse::<u64>()?;
    }
    Ok(bytes)
}
