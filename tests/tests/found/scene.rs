//! An agent with a session, and what it says of its programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, INTERFACE, THERE, connect};
use dz_tests::bpftool;
use dz_tests::harness::Requirement;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;
use serde_json::Value;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 3] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("bpftool"),
];
/// The same, and TC programs with links.
pub(crate) const NEEDS_TCX: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("bpftool"),
    Requirement::Kernel(6, 6),
];
/// For two full checks, ten seconds apart, ten times over.
pub(crate) const TWO_CHECKS: Duration = Duration::from_secs(200);
pub(crate) const INTERVAL_MS: u32 = 100;

/// Two hosts with a session that is Up.
pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) agent: Agent,
    _peer: UdpPeer,
}

impl Scene {
    pub(crate) fn new(label: &str) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        let agent = bed.agent(INTERVAL_MS)?;
        let peer = bed.patient_peer(Rules::Deployed, INTERVAL_MS)?;
        connect(&agent)?;
        until_up(&agent)?;
        Ok(Self {
            bed,
            agent,
            _peer: peer,
        })
    }

    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.agent
            .home()
            .pin_dir()
            .join(format!("{name}_{INTERFACE}"))
    }

    /// Waits until a program was put back so often, is in its place, and the session is Up.
    pub(crate) fn until_mended(&self, hook: &str, times: u64) -> Result<()> {
        let what = format!("the program at {hook} in its place again");
        eventually(TWO_CHECKS, &what, || {
            let program = program(&self.agent, hook)?;
            ensure!(
                program["in_place"] == true && program["mended"] == times && program["before"] == 0,
                "{program}"
            );
            anyhow::Ok(())
        })?;
        let status = self.agent.home().command(&["status"])?;
        ensure!(status.status.code() == Some(0), "{status:?}");
        until_up(&self.agent)
    }

    /// The value of a metric of a hook.
    pub(crate) fn metric(&self, name: &str, hook: &str) -> Result<String> {
        let socket = self.agent.home().socket();
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--unix-socket"]).arg(socket);
        let output = curl.arg("http://localhost/metrics").output()?;
        let text = String::from_utf8(output.stdout)?;
        let start = format!("{name}{{iface=\"{INTERFACE}\",hook=\"{hook}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        Ok(value
            .with_context(|| format!("no {start} in {text}"))?
            .to_owned())
    }
}

/// What the agent says of a program.
pub(crate) fn program(agent: &Agent, hook: &str) -> Result<Value> {
    let status = agent.get("/v1/status")?;
    let programs = status["interfaces"][0]["programs"].as_array().cloned();
    let mut programs = programs.unwrap_or_default().into_iter();
    let program = programs.find(|program| program["hook"] == hook);
    program.with_context(|| format!("no {hook} in {status}"))
}

pub(crate) fn until_up(agent: &Agent) -> Result<()> {
    eventually(bed::PATIENCE, "a session that is Up", || {
        let sessions = agent.get("/v1/sessions")?;
        let up = sessions["sessions"].as_array().is_some_and(|sessions| {
            sessions
                .iter()
                .any(|session| session["peer"] == THERE.to_string() && session["state"] == "up")
        });
        ensure!(up, "{sessions}");
        anyhow::Ok(())
    })
}

/// Takes the program of a pinned link off its device, as an operator could.
pub(crate) fn detach(pin: &Path) -> Result<()> {
    bpftool::json(&["link", "detach", "pinned", &pin.to_string_lossy()])?;
    Ok(())
}

/// An agent in a home where another one has lived.
pub(crate) fn start(home: Home, bed: &Bed) -> Result<Agent> {
    bed::agent(home, &bed.here, INTERVAL_MS)
}
