//! Starts that go wrong: the first, and those that take sessions over which are Up.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::injector::{Call, Fault};
use nix::sys::signal::Signal;

use crate::case::Outcome;
use crate::life::{Life, Watched};
use crate::scene::{ASKED, FILE, Scene};
use dz_tests::mark::Marks;

/// Has an agent start where none has been.
pub(crate) fn first(scene: &Scene, call: &Call, fault: Fault) -> Result<Outcome> {
    let home = Scene::home()?;
    let others = scene.others(&home)?;
    let before = scene.left(&home)?;
    let started = Watched::start(scene, home, Some((call.clone(), fault)))?;
    let (outcome, home, marks) = met(scene, started, fault, &FILE, |home| {
        Ok(scene.left(home)? == before)
    })?;
    let agent = scene.start(home).context("the next start")?;
    let now = scene.right(&agent, &FILE).context("after the next start")?;
    if let Some(marks) = marks {
        ensure!(now == marks, "flapped: {marks:?}, now {now:?}");
    }
    let home = agent.end(Signal::SIGTERM)?;
    scene.nothing_left(&home).context("after the stop")?;
    unchanged(scene, &home, &others)?;
    Ok(outcome)
}

/// A dead agent whose sessions are Up.
pub(crate) struct Dead {
    home: Home,
    marks: Marks,
    others: String,
}

impl Dead {
    /// The peers of its sessions.
    const PEERS: [Ipv4Addr; 3] = [FILE[0], FILE[1], ASKED];

    /// Starts an agent, connects its peers, and kills it.
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        let home = Scene::home()?;
        let others = scene.others(&home)?;
        let agent = scene.start(home)?;
        connect(&agent)?;
        let marks = scene.right(&agent, &Self::PEERS)?;
        let home = agent.crash()?;
        Ok(Self {
            home,
            marks,
            others,
        })
    }

    /// Has an agent take over from it, and returns what is dead in the end.
    pub(crate) fn taken_over(
        self,
        scene: &Scene,
        call: &Call,
        fault: Fault,
    ) -> Result<(Outcome, Self)> {
        let Self {
            home,
            marks,
            others,
        } = self;
        let before = scene.left(&home)?;
        let started = Watched::start(scene, home, Some((call.clone(), fault)))?;
        let (outcome, home, now) = met(scene, started, fault, &Self::PEERS, |home| {
            Ok(scene.left(home)? == before)
        })?;
        if let Some(now) = now {
            ensure!(now == marks, "flapped: {marks:?}, now {now:?}");
        }
        let agent = scene.start(home).context("the next start")?;
        let now = scene.right(&agent, &Self::PEERS);
        let now = now.context("after the next start")?;
        ensure!(
            now == marks,
            "flapped by the next start: {marks:?}, now {now:?}"
        );
        let home = agent.crash()?;
        unchanged(scene, &home, &others)?;
        Ok((
            outcome,
            Self {
                home,
                marks,
                others,
            },
        ))
    }

    /// Writes the calls of a takeover down.
    pub(crate) fn record(self, scene: &Scene) -> Result<Vec<String>> {
        record(scene, self.home)
    }
}

/// Writes the calls of a start down, until the agent is ready.
pub(crate) fn record(scene: &Scene, home: Home) -> Result<Vec<String>> {
    let (mut watched, life) = Watched::start(scene, home, None)?;
    let kinds = watched.injector.end();
    ensure!(matches!(life, Life::Ready), "{}", watched.last_line());
    Ok(kinds)
}

/// Looks at what has become of a start: its outcome, the home of the dead agent, and the sessions that it had if it lived.
fn met(
    scene: &Scene,
    (mut watched, life): (Watched, Life),
    fault: Fault,
    wanted: &[Ipv4Addr],
    is_unchanged: impl Fn(&Home) -> Result<bool>,
) -> Result<(Outcome, Home, Option<Marks>)> {
    match life {
        Life::Ended => {
            let home = watched.crash()?;
            let unchanged = fault != Fault::Kill && is_unchanged(&home)?;
            let outcome = if unchanged {
                Outcome::Refused
            } else {
                Outcome::Ended
            };
            Ok((outcome, home, None))
        }
        Life::Ready if fault == Fault::Kill => {
            // Its thread has made no other call yet: now it is too late for one.
            let outcome = if watched.injector.has_hit() {
                Outcome::Ended
            } else {
                Outcome::NotMet
            };
            Ok((outcome, watched.crash()?, None))
        }
        Life::Ready => {
            let met = watched.injector.has_hit();
            let marks = match watched.right(scene, wanted) {
                Ok(marks) => marks,
                // It was ready, and has ended since, with a line.
                Err(_) if watched.ended()?.is_some() => {
                    return Ok((Outcome::Ended, watched.crash()?, None));
                }
                Err(error) => {
                    let last = watched.last_line();
                    return Err(error.context(format!("it went on, but ({last})")));
                }
            };
            let outcome = if met {
                Outcome::WentOn
            } else {
                Outcome::NotMet
            };
            Ok((outcome, watched.crash()?, Some(marks)))
        }
    }
}

pub(crate) fn connect(agent: &Agent) -> Result<()> {
    let local = dz_tests::bed::HERE.to_string();
    agent.cli(&["connect", &ASKED.to_string(), "--local", &local])?;
    Ok(())
}

/// Makes sure that other people's things are as they were.
pub(crate) fn unchanged(scene: &Scene, home: &Home, before: &str) -> Result<()> {
    let now = scene.others(home)?;
    ensure!(now == before, "other people's things: {before}\nnow {now}");
    Ok(())
}
