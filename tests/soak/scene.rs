//! A tunnel whose far end answers for every peer, and an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State as Liveness;
use dz_tests::agent::{Agent, Home};
use dz_tests::answerer::{Answerer, peer};
use dz_tests::ask::{Asked, Reply};
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::netns::Netns;
use dz_tests::rng::Rng;
use dz_tests::tun::Tun;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::state::State;

/// Peers of the file, which stay.
pub(crate) const LASTING: usize = 20;
/// Peers that come and go.
pub(crate) const COMING: usize = 200;
/// For everything to come to rest: the full check, back-offs, a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The scene.
pub(crate) struct Scene {
    agent: Option<Agent>,
    pub(crate) far: Answerer,
    pub(crate) here: Netns,
    files: TempDir,
    pub(crate) rng: Rng,
    /// What has been done so often.
    pub(crate) done: BTreeMap<&'static str, u64>,
    /// Addresses that have come and gone.
    pub(crate) addresses: u32,
}

impl Scene {
    /// Makes it, with an agent.
    pub(crate) fn new(seed: u64) -> Result<Self> {
        let here = Netns::new("soak")?;
        let tun = Tun::new(&here, INTERFACE, &["169.254.7.0/31"])?;
        let far = Answerer::start(tun, Duration::from_millis(200), false)?;
        let files = tempfile::tempdir()?;
        let lines: String = (0..LASTING)
            .map(|index| format!("{} local {HERE}\n", peer(index)))
            .collect();
        fs::write(files.path().join("peers"), lines)?;
        let mut scene = Self {
            agent: None,
            far,
            here,
            files,
            rng: Rng::new(seed, 0),
            done: BTreeMap::new(),
            addresses: 0,
        };
        scene.start(Home::nested()?)?;
        Ok(scene)
    }

    /// What has been done, for people.
    pub(crate) fn done(&self) -> String {
        let done = self
            .done
            .iter()
            .map(|(name, count)| format!("{count} {name}"));
        done.collect::<Vec<_>>().join(", ")
    }

    /// Hands the agent over.
    pub(crate) fn agent(&mut self) -> Result<Agent> {
        self.agent.take().context("no agent")
    }

    pub(crate) fn running(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("no agent")
    }

    pub(crate) fn start(&mut self, home: Home) -> Result<()> {
        let peers = self.files.path().join("peers");
        let peers = peers.to_string_lossy();
        let words = "--tx-interval 200ms --rx-interval 200ms --detect-mult 5 --max-sessions 2048";
        let mut arguments = vec!["--interface", INTERFACE, "--peers", &*peers];
        arguments.extend(words.split(' '));
        self.agent = Some(Agent::start_with_faults(home, &self.here, &arguments)?);
        Ok(())
    }

    /// Replaces the agent in each of the ways.
    pub(crate) fn restarts(&mut self) -> Result<()> {
        for signal in [Signal::SIGUSR2, Signal::SIGKILL, Signal::SIGTERM] {
            for _ in 0..3 {
                let agent = self.agent()?;
                let home = if signal == Signal::SIGKILL {
                    agent.crash()?
                } else {
                    agent.end(signal)?
                };
                self.start(home)?;
                *self.done.entry("restarts").or_default() += 1;
            }
        }
        Ok(())
    }

    /// Asks for something; whether it is done is not said, for a fault may be set.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Reply> {
        let socket = self.running()?.home().socket();
        Asked::send(&socket, method, path, body)?.reply()
    }

    /// Where our routes lead.
    pub(crate) fn routes(&self) -> Result<BTreeSet<Ipv4Addr>> {
        routes(&self.here)
    }

    /// Ends what may be going on, has only the lasting peers stay, and waits until all are Up.
    pub(crate) fn at_rest(&mut self) -> Result<State> {
        self.running()?.home().faults()?.clear()?;
        self.far.set_cut(false);
        let all = json!({ "all": true }).to_string();
        eventually(PATIENCE, "no peers of requests", || {
            match self.ask("DELETE", "/v1/peers", &all)? {
                Reply::Done => Ok(()),
                reply => Err(anyhow::anyhow!("{reply:?}")),
            }
        })?;
        let wanted: BTreeSet<_> = (0..LASTING).map(peer).collect();
        let Self { agent, here, .. } = self;
        let agent = agent.as_mut().context("no agent")?;
        eventually(PATIENCE, "what should be", || {
            let reader = MapReader::from_pins(agent.home().pin_dir())?;
            let sessions = reader.sessions()?;
            let up = sessions
                .iter()
                .filter(|entry| entry.session.state == Liveness::Up);
            let up: BTreeSet<_> = up.map(|entry| Ipv4Addr::from(entry.key.peer)).collect();
            ensure!(
                up == wanted && sessions.len() == wanted.len(),
                "{} of {} Up",
                up.len(),
                sessions.len()
            );
            anyhow::Ok(())
        })?;
        eventually(PATIENCE, "their routes", || {
            let routes = routes(here)?.len();
            ensure!(routes == wanted.len(), "{routes} routes");
            anyhow::Ok(())
        })?;
        // A block of counters that an address of the churn had is free for the next one.
        let address = address(self.addresses + 1);
        here.ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
        eventually(PATIENCE, "a new address", || {
            let locals = MapReader::from_pins(agent.home().pin_dir())?.locals()?;
            let mut held = locals.iter().map(|(key, _)| Ipv4Addr::from(key.addr));
            ensure!(held.any(|held| held == address), "{locals:?}");
            anyhow::Ok(())
        })?;
        // Connections of requests that have been answered are closed a moment later.
        let mut last = State::of(agent, here, wanted.len())?;
        eventually(PATIENCE, "the same twice", || {
            let now = State::of(agent, here, wanted.len())?;
            let same = now.faults(&last, f64::INFINITY).next().is_none();
            last = now;
            std::thread::sleep(Duration::from_secs(1));
            ensure!(same, "it still changes");
            anyhow::Ok(())
        })?;
        here.ip(&format!("address delete {address}/32 dev {INTERFACE}"))?;
        self.addresses += 1;
        Ok(last)
    }
}

/// Where our routes lead.
fn routes(here: &Netns) -> Result<BTreeSet<Ipv4Addr>> {
    let shown = here.ip("-j route show table all proto 144")?;
    let shown: Value = serde_json::from_str(&shown)?;
    let mut routes = BTreeSet::new();
    for route in shown.as_array().context("no list")? {
        let to = route["dst"].as_str().context("no destination")?;
        ensure!(routes.insert(to.parse()?), "two routes of ours to {to}");
    }
    Ok(routes)
}

/// The address of the interface that comes after so many others.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 98, 0, 0)) + number)
}
