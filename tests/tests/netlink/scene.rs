//! One session, Up, between an agent with fault hooks and a plain peer; and what the agent says of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::faults::Faults;
use dz_tests::harness::Requirement;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;
use serde_json::Value;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];
/// For so long the deletion of a route is held back where something is to happen meanwhile: fifty times what
/// that takes, on a machine that may be busy.
pub(crate) const HELD_BACK: Duration = Duration::from_secs(5);
/// Long, so that nobody is taken for silent on a busy machine.
pub(crate) const INTERVAL_MS: u32 = 1_000;

pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) agent: Agent,
    pub(crate) peer: UdpPeer,
}

impl Scene {
    /// Connected, and then a peer that answers; what is to be in its way is arranged before it is
    /// there, for a session can be Up as soon as it is.
    pub(crate) fn connected(
        label: &str,
        arrange: impl FnOnce(&Bed, &Agent) -> Result<()>,
    ) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        let agent = bed.agent_with_faults(INTERVAL_MS)?;
        bed::connect(&agent)?;
        arrange(&bed, &agent)?;
        let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
        Ok(Self { bed, agent, peer })
    }

    /// Up, the route in place.
    pub(crate) fn up(label: &str) -> Result<Self> {
        let scene = Self::connected(label, |_, _| Ok(()))?;
        scene.until_up()?;
        Ok(scene)
    }

    pub(crate) fn until_up(&self) -> Result<()> {
        bed::until(self.agent.home(), State::Up)?;
        self.until_route(true)
    }

    pub(crate) fn until_route(&self, there: bool) -> Result<()> {
        bed::until_route(&self.bed.here, THERE, there)
    }

    pub(crate) fn faults(&self) -> Result<Faults> {
        self.agent.home().faults()
    }

    /// The session's row in `sessions --json`.
    pub(crate) fn shown(&self) -> Result<Value> {
        let shown = self.agent.get("/v1/sessions")?;
        let row = shown["sessions"].get(0).cloned();
        row.with_context(|| format!("no session: {shown}"))
    }

    /// What was done to routes, by its name in `counters --json`.
    pub(crate) fn total(&self, name: &str) -> Result<u64> {
        let counters = self.agent.get("/v1/counters")?;
        let rows = counters["routes"].as_array().context("no routes")?;
        let numbers = rows.iter().filter_map(|row| row[name].as_u64());
        Ok(numbers.sum())
    }

    pub(crate) fn until_total(&self, name: &str, least: u64) -> Result<()> {
        eventually(PATIENCE, &format!("{least} {name}"), || {
            let total = self.total(name)?;
            ensure!(total >= least, "{total}");
            anyhow::Ok(())
        })
    }

    /// Waits until the session is shown with a route error that has these words.
    pub(crate) fn until_error(&self, words: &str) -> Result<()> {
        eventually(PATIENCE, "a route error", || {
            let shown = self.shown()?;
            let error = shown["route_error"].as_str().unwrap_or_default();
            ensure!(error.contains(words), "{shown}");
            anyhow::Ok(())
        })?;
        let table = self.agent.cli(&["sessions"])?;
        ensure!(
            table.contains("ROUTE ERROR") && table.contains(words),
            "{table}"
        );
        Ok(())
    }

    pub(crate) fn until_no_error(&self) -> Result<()> {
        eventually(PATIENCE, "no route error", || {
            let shown = self.shown()?;
            ensure!(shown["route_error"].is_null(), "{shown}");
            anyhow::Ok(())
        })
    }

    /// Waits until there is nothing left of any session.
    pub(crate) fn until_nothing(&self) -> Result<()> {
        eventually(PATIENCE, "nothing left", || {
            let entries = bed::entries(self.agent.home())?;
            ensure!(entries.is_empty(), "{entries:?}");
            anyhow::Ok(())
        })?;
        let route = bed::route_to(&self.bed.here, THERE)?;
        ensure!(route.is_empty(), "a session went before its route: {route}");
        Ok(())
    }

    /// Waits until so many lines of its log are warnings with these words; more are too many.
    pub(crate) fn warned(&mut self, words: &str, times: usize) -> Result<()> {
        let process = self.agent.process();
        let warnings = || {
            let log = process.log();
            let about = |line: &&str| line.contains("WARN") && line.contains(words);
            log.lines().filter(about).count()
        };
        // What the agent has written comes through a pipe.
        eventually(PATIENCE, &format!("{times} warnings: {words}"), || {
            (warnings() >= times).then_some(())
        })?;
        ensure!(warnings() == times, "{words}: {} warnings", warnings());
        Ok(())
    }

    /// Has the agent look at everything, as a change of the interface does.
    pub(crate) fn nudge(&self) -> Result<()> {
        let shown = self.bed.here.ip(&format!("link show {INTERFACE}"))?;
        let mtu = if shown.contains("mtu 1400") {
            1401
        } else {
            1400
        };
        self.bed
            .here
            .ip(&format!("link set {INTERFACE} mtu {mtu}"))?;
        Ok(())
    }
}

/// Waits until its log has these words: what the agent has written comes through a pipe.
pub(crate) fn logged(agent: &mut Agent, words: &str) -> Result<()> {
    let process = agent.process();
    eventually(PATIENCE, &format!("in the log: {words}"), || {
        process.log().contains(words).then_some(())
    })
}

/// What a command that is to fail says.
pub(crate) fn refusal(agent: &Agent, words: &[&str]) -> Result<String> {
    let output = agent.home().command(words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{words:?} succeeded");
    Ok(said)
}
