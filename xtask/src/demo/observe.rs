//! What agent and kernel say of a session.

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::console::Console;
use super::host::Host;

#[derive(Debug, Deserialize)]
struct Sessions {
    sessions: Vec<Session>,
}

/// A session as `dz-agent sessions --json` has it.
#[derive(Debug, Deserialize)]
pub(super) struct Session {
    pub(super) state: String,
    pub(super) last_down_reason: String,
    pub(super) transitions: u32,
    pub(super) detect_time_us: u64,
    pub(super) route: Route,
}

#[derive(Debug, Deserialize)]
pub(super) struct Route {
    pub(super) state: String,
}

impl Session {
    /// Up, and the route is in the kernel's table.
    pub(super) fn is_up(&self) -> bool {
        self.state == "up" && self.route.state == "present"
    }

    /// Down for that reason, and the route is gone.
    pub(super) fn is_down(&self, reason: &str) -> bool {
        self.state == "down" && self.last_down_reason == reason && self.route.state == "absent"
    }
}

/// A host's only session.
///
/// # Errors
/// The agent does not answer, or there is none.
pub(super) fn session(console: &Console, host: &Host) -> anyhow::Result<Session> {
    let text = console.read(&host.ask("sessions --json"))?;
    let shown: Sessions = parse(&text)?;
    let first = shown.sessions.into_iter().next();
    first.with_context(|| format!("{} has no session", host.name))
}

#[derive(Debug, Deserialize)]
struct Blocks {
    blocks: Vec<Block>,
}

#[derive(Debug, Deserialize)]
struct Block {
    counters: std::collections::BTreeMap<String, u64>,
}

/// A counter, over all addresses.
///
/// # Errors
/// The agent does not answer.
pub(super) fn counter(console: &Console, host: &Host, name: &str) -> anyhow::Result<u64> {
    let text = console.read(&host.ask("counters --json"))?;
    let shown: Blocks = parse(&text)?;
    let values = shown.blocks.iter().map(|block| {
        let value = block.counters.get(name).copied();
        value.with_context(|| format!("no counter {name}"))
    });
    values.sum()
}

#[derive(Debug, Deserialize)]
struct Dumped {
    formatted: Entry,
}

#[derive(Debug, Deserialize)]
struct Entry {
    value: Value,
}

#[derive(Debug, Deserialize)]
struct Value {
    received: u64,
    answered: u64,
    originated: u64,
    session: Machine,
}

#[derive(Debug, Deserialize)]
struct Machine {
    state: String,
    transitions: u32,
    ups: u32,
}

/// A session as the kernel has it, whatever its agent is doing.
#[derive(Debug)]
pub(super) struct InKernel {
    pub(super) state: String,
    pub(super) transitions: u32,
    pub(super) ups: u32,
    pub(super) received: u64,
    pub(super) answered: u64,
    pub(super) originated: u64,
}

/// The only entry of a host's `dz_sessions`, read by `bpftool`.
///
/// # Errors
/// `bpftool` refuses, or there is none.
pub(super) fn in_kernel(console: &Console, host: &Host) -> anyhow::Result<InKernel> {
    let line = format!("bpftool -j map dump pinned {}", sessions_map(host));
    let dumped: Vec<Dumped> = parse(&console.read(&line)?)?;
    let first = dumped.into_iter().next();
    let entry = first.with_context(|| format!("{} has no session in the kernel", host.name))?;
    let value = entry.formatted.value;
    Ok(InKernel {
        state: value.session.state,
        transitions: value.session.transitions,
        ups: value.session.ups,
        received: value.received,
        answered: value.answered,
        originated: value.originated,
    })
}

/// Where a host's map of sessions is pinned.
pub(super) fn sessions_map(host: &Host) -> String {
    host.pin_dir().join("dz_sessions").display().to_string()
}

fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text).with_context(|| format!("not the JSON that was expected: {text}"))
}
