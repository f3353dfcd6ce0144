//! An agent whose calls are watched: whether it lives, and how it has ended.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::injector::{Call, Fault, Injector};
use dz_tests::wait::eventually;

use crate::scene::Scene;
use dz_tests::mark::Marks;

/// For a start, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// An agent and the watch over it, dropped in this order.
pub(crate) struct Watched {
    pub(crate) agent: Agent,
    pub(crate) injector: Injector,
}

/// What has become of an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    Ready,
    Ended,
}

impl Watched {
    /// Starts one, and waits until it is ready or has ended.
    pub(crate) fn start(
        scene: &Scene,
        home: Home,
        fault: Option<(Call, Fault)>,
    ) -> Result<(Self, Life)> {
        let arguments = scene.arguments();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let here = &scene.bed.here;
        let (agent, injector) = Agent::spawn_injected(home, here, &arguments, fault)?;
        let mut watched = Self { agent, injector };
        let life = watched.ready_or_ended()?;
        Ok((watched, life))
    }

    fn ready_or_ended(&mut self) -> Result<Life> {
        let begin = Instant::now();
        loop {
            if self.ended()?.is_some() {
                return Ok(Life::Ended);
            }
            if self.agent.get("/v1/sessions").is_ok() {
                return Ok(Life::Ready);
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "it hangs: neither ready nor ended. {}",
                self.last_line()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// How it has ended, if it has. How it must not end is an error.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let log = self.agent.process().log();
        if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
            bail!("a panic: {line}");
        }
        let Some(status) = self.agent.process().ended()? else {
            return Ok(None);
        };
        let last = self.last_line();
        match (status.code(), status.signal()) {
            // Ours, as a fault.
            (None, Some(libc::SIGKILL)) => {}
            (Some(1..=9), _) => ensure!(
                last.starts_with("dz-agent: "),
                "it ends with {status} without saying why: {last}"
            ),
            _ => bail!("it ends with {status}: {last}"),
        }
        Ok(Some(status))
    }

    /// Looks until it is so, or the agent has ended, which is an error.
    pub(crate) fn until<T>(&mut self, what: &str, look: impl Fn(&Agent) -> Result<T>) -> Result<T> {
        eventually(PATIENCE, what, || match self.ended() {
            Ok(None) => look(&self.agent).map(Ok),
            Ok(Some(status)) => Ok(Err(anyhow!("{what}: it has ended with {status}"))),
            Err(error) => Ok(Err(error)),
        })?
    }

    /// Waits until everything is as it should be with these peers, and returns the sessions.
    pub(crate) fn right(&mut self, scene: &Scene, wanted: &[Ipv4Addr]) -> Result<Marks> {
        self.until("what should be", |agent| scene.look(agent, wanted))
    }

    pub(crate) fn last_line(&mut self) -> String {
        let log = self.agent.process().log();
        log.lines().last().unwrap_or("no word").to_owned()
    }

    /// Kills it.
    pub(crate) fn crash(self) -> Result<Home> {
        let Self { agent, injector } = self;
        let home = agent.crash()?;
        drop(injector);
        Ok(home)
    }
}
