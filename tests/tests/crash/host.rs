//! A world with an agent in it that lives or is dead.

use std::collections::BTreeSet;
use std::mem;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use dz_tests::agent::{Agent, Home};
use dz_tests::ask::Asked;
use dz_tests::bed::INTERFACE;
use dz_tests::rng::Rng;

use dz_tests::mark::Marks;

use crate::check::settled;
use crate::model::{Model, Request};
use crate::world::{DETECT_MULT, INTERVAL_MS, World};

/// A world, its agent, and what is known about both.
pub(crate) struct Host {
    pub(crate) world: World,
    pub(crate) model: Model,
    /// Where the agent is, or was.
    pub(crate) life: Life,
    /// Peers that a change of this round was about.
    pub(crate) touched: BTreeSet<Ipv4Addr>,
    pub(crate) log: Vec<String>,
}

/// Whether there is an agent.
pub(crate) enum Life {
    Running(Agent),
    Dead(Home),
    /// Between the two, in a function that has failed.
    Unknown,
}

impl Host {
    pub(crate) fn new(label: &str) -> Result<Self> {
        let world = World::new(label)?;
        let agent = start(Home::new()?, &world)?;
        Ok(Self {
            world,
            model: Model::default(),
            life: Life::Running(agent),
            touched: BTreeSet::new(),
            log: Vec::new(),
        })
    }

    pub(crate) fn settled(&mut self) -> Result<Marks> {
        let Life::Running(agent) = &self.life else {
            bail!("no agent");
        };
        settled(&self.world, &mut self.model, agent)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Life::Running(agent) = mem::replace(&mut self.life, Life::Unknown) {
            self.life = Life::Dead(agent.crash()?);
        }
        Ok(())
    }

    pub(crate) fn dead(&mut self) -> Result<Home> {
        match mem::replace(&mut self.life, Life::Unknown) {
            Life::Dead(home) => Ok(home),
            _ => bail!("an agent that has not been killed"),
        }
    }

    pub(crate) fn send(&self, request: &Request) -> Result<Asked> {
        let Life::Running(agent) = &self.life else {
            bail!("no agent");
        };
        let socket = agent.home().socket();
        Asked::send(&socket, request.method(), "/v1/peers", &request.body())
    }

    pub(crate) fn log(&mut self, line: impl Into<String>) {
        self.log.push(line.into());
    }
}

pub(crate) fn pause(rng: &Rng, most_us: u64) {
    sleep(Duration::from_micros(rng.below(most_us)));
}

fn arguments() -> [String; 10] {
    let interval = format!("{INTERVAL_MS}ms");
    [
        "--interface",
        INTERFACE,
        "--tx-interval",
        &interval,
        "--rx-interval",
        &interval,
        "--detect-mult",
        &DETECT_MULT.to_string(),
        "--max-sessions",
        "2048",
    ]
    .map(str::to_owned)
}

pub(crate) fn spawn(home: Home, world: &World) -> Result<Agent> {
    let arguments = arguments();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Agent::spawn_in(home, &world.here, &arguments)
}

pub(crate) fn start(home: Home, world: &World) -> Result<Agent> {
    let mut agent = spawn(home, world)?;
    agent.wait_ready()?;
    Ok(agent)
}
