//! The next agent goes on where the last one left off, and nobody notices.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home, Process};
use dz_tests::bed::{self, Bed, HERE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::NEEDS;

const INTERVAL_MS: u32 = 300;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("takeover::sigusr2", &NEEDS, || {
            takes_over(|agent| agent.end(Signal::SIGUSR2))
        }),
        Test::new("takeover::killed", &NEEDS, || takes_over(Agent::crash)),
    ]
}

fn takes_over(stop: impl FnOnce(Agent) -> Result<Home>) -> Result<()> {
    let bed = Bed::new("takeover", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    bed::until_route(&bed.here, THERE, true)?;
    let ours = bed::until(agent.home(), State::Up)?;
    let theirs = || peer.session(HERE).context("no session");
    let before = theirs()?;
    let routes = RouteLog::start(&bed)?;

    let home = stop(agent)?;
    let alone = bed::entry(&home)?;
    let answered = || -> Result<()> {
        let now = bed::entry(&home)?;
        ensure!(now.answered > alone.answered + 1, "{}", now.answered);
        Ok(())
    };
    eventually(PATIENCE, "answers without an agent", answered)?;
    let agent = bed::agent(home, &bed.here, INTERVAL_MS)?;

    // Its own clock is at work again, on the session that it found.
    let found = bed::entry(agent.home())?;
    let later = eventually(PATIENCE, "a few packets more", || {
        let now = bed::entry(agent.home())?;
        ensure!(now.received > found.received + 5, "{now:?}");
        anyhow::Ok(now)
    })?;
    ensure!(
        later.session.state == State::Up
            && later.session.transitions == ours.session.transitions
            && later.generation == ours.generation,
        "{ours:?}, then {later:?}"
    );
    let now = theirs()?;
    ensure!(now.changes == before.changes, "{:?}", now.changes);
    let shown = agent.json(&["sessions", "--json"])?;
    ensure!(shown["sessions"][0]["state"] == "up", "{shown}");
    let touched = routes.end()?;
    ensure!(!touched.contains(&THERE.to_string()), "{touched}");
    Ok(())
}

/// Everything that happens to routes at our end.
struct RouteLog<'a> {
    bed: &'a Bed,
    monitor: Process,
}

impl<'a> RouteLog<'a> {
    fn start(bed: &'a Bed) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["monitor", "route"]);
        let monitor = Process::spawn(&bed.here, &mut command, "ip monitor".to_owned())?;
        let log = Self { bed, monitor };
        log.marked("192.0.2.1")?;
        Ok(log)
    }

    fn end(self) -> Result<String> {
        self.marked("192.0.2.2")?;
        Ok(self.monitor.log())
    }

    /// Adds a route until it is reported: what happened before it has been reported, too.
    fn marked(&self, mark: &str) -> Result<()> {
        eventually(PATIENCE, "a route reported", || {
            let netns = &self.bed.here;
            netns.ip(&format!("route replace {mark} dev lo metric 7"))?;
            netns.ip(&format!("route delete {mark} dev lo metric 7"))?;
            ensure!(self.monitor.log().contains(mark), "not yet");
            anyhow::Ok(())
        })
    }
}
