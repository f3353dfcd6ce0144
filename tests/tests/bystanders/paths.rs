//! Every path that the agent and `purge` can take.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::program::program;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{Look, NEEDS, OURS, Scene, TAKEN, pins};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("paths::sessions", &NEEDS, sessions),
        Test::new("paths::stops_and_starts", &NEEDS, stops_and_starts),
        Test::new("paths::interface_anew", &NEEDS, interface_anew),
        Test::new("paths::purge", &NEEDS, purge_after_a_crash),
    ]
}

/// A scene, what of it is other people's, and the other agent's state.
struct Watched {
    scene: Scene,
    before: Look,
    second: String,
}

impl Watched {
    fn new(home: &Home) -> Result<Self> {
        let scene = Scene::new()?;
        pins(home)?;
        let before = scene.look(home)?;
        for (place, lines) in &before.0 {
            // What cannot be seen here would not be missed below.
            ensure!(!lines.is_empty(), "nothing of other people's: {place}");
        }
        let second = scene.second()?;
        Ok(Self {
            scene,
            before,
            second,
        })
    }

    fn same(&self, home: &Home, when: &str) -> Result<()> {
        self.before.same(&self.scene.look(home)?, when)?;
        let second = self.scene.second()?;
        ensure!(
            second == self.second,
            "after {when}, the other agent: {} then {second}",
            self.second
        );
        Ok(())
    }

    fn connect(&self, agent: &Agent) -> Result<()> {
        let (there, taken, local) = (THERE.to_string(), TAKEN.to_string(), OURS.to_string());
        agent.cli(&["connect", &there, &taken, "--local", &local])?;
        Ok(())
    }

    /// Both sessions are Up: one with its route, the other with somebody else's in its place.
    fn up(&self, agent: &Agent) -> Result<()> {
        self.until(agent, |shown| {
            let with = |peer: &str, route: &str| {
                let found = |one: &Value| {
                    one["peer"] == peer && one["state"] == "up" && one["route"]["state"] == route
                };
                shown["sessions"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(found))
            };
            with(&THERE.to_string(), "present") && with(&TAKEN.to_string(), "foreign")
        })
    }

    fn until(&self, agent: &Agent, right: impl Fn(&Value) -> bool) -> Result<()> {
        eventually(PATIENCE, "sessions as they should be", || {
            let shown = agent.get("/v1/sessions")?;
            ensure!(right(&shown), "{shown}");
            anyhow::Ok(())
        })
    }

    fn here(&self) -> Result<&Netns> {
        Ok(&self.scene.bed()?.here)
    }
}

fn sessions() -> Result<()> {
    let home = Home::nested()?;
    let mut watched = Watched::new(&home)?;
    let agent = watched.scene.start(home)?;
    watched.same(agent.home(), "start")?;
    // Behind ours, too.
    watched.scene.tcx()?;
    watched.before = watched.scene.look(agent.home())?;
    watched.connect(&agent)?;
    watched.same(agent.home(), "connect")?;
    watched.up(&agent)?;
    watched.same(agent.home(), "Up")?;

    for peer in [&watched.scene.peer, &watched.scene.taken] {
        peer.admin_down(OURS);
    }
    let all = |shown: &Value, state: &str| {
        let all = shown["sessions"].as_array();
        all.is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["state"] == state))
    };
    watched.until(&agent, |shown| all(shown, State::Down.name()))?;
    bed::until_route(watched.here()?, THERE, false)?;
    watched.same(agent.home(), "Down")?;
    for peer in [&watched.scene.peer, &watched.scene.taken] {
        peer.admin_up(OURS);
    }
    watched.up(&agent)?;

    agent.cli(&["disconnect", &THERE.to_string(), &TAKEN.to_string()])?;
    watched.same(agent.home(), "disconnect")?;
    ensure!(bed::route_to(watched.here()?, THERE)?.is_empty());
    watched.connect(&agent)?;
    watched.up(&agent)?;

    watched.scene.hold(false)?;
    watched.until(&agent, |shown| {
        shown["parked"].as_array().is_some_and(|all| all.len() == 2)
    })?;
    let without = watched.before.without(&OURS.to_string());
    without.same(&watched.scene.look(agent.home())?, "parking")?;
    watched.scene.hold(true)?;
    watched.up(&agent)?;
    watched.same(agent.home(), "the address' return")?;
    let home = agent.end(Signal::SIGTERM)?;
    watched.same(&home, "SIGTERM")
}

fn stops_and_starts() -> Result<()> {
    let home = Home::nested()?;
    let watched = Watched::new(&home)?;
    let agent = watched.scene.start(home)?;
    watched.connect(&agent)?;
    watched.up(&agent)?;
    let home = agent.end(Signal::SIGUSR2)?;
    watched.same(&home, "SIGUSR2")?;
    let agent = watched.scene.start(home)?;
    watched.same(agent.home(), "start after SIGUSR2")?;
    let home = agent.crash()?;
    watched.same(&home, "kill -9")?;
    let agent = watched.scene.start(home)?;
    watched.up(&agent)?;
    watched.same(agent.home(), "start after kill -9")?;
    let home = agent.end(Signal::SIGTERM)?;
    watched.same(&home, "SIGTERM")?;
    ensure!(home.pin_dir().exists(), "other people's files are in it");
    // Other people's only.
    attached::until(watched.here()?, INTERFACE, 2)
}

/// The kernel takes what is on the interface with it; the rest stays, and what comes back with the
/// interface does, too.
fn interface_anew() -> Result<()> {
    let home = Home::nested()?;
    let mut watched = Watched::new(&home)?;
    let agent = watched.scene.start(home)?;
    watched.connect(&agent)?;
    watched.up(&agent)?;
    let (here, there) = watched.scene.delete_interface()?;
    watched.until(&agent, |shown| {
        shown["parked"].as_array().is_some_and(|all| all.len() == 2)
    })?;
    let now = crate::scene::look(&here, agent.home())?;
    // A GRE tunnel goes with what it lies on, and comes back with another.
    let below = format!("dev u-{INTERFACE} ");
    let before = watched.before.without(&format!("dev {INTERFACE} "));
    let before = before.without(&below);
    before.same(&now, "the interface's end")?;

    let bed = Bed::join(here, there)?;
    bed.there.ip(&format!("route add {OURS} dev {INTERFACE}"))?;
    watched.scene.furnish(bed)?;
    watched.up(&agent)?;
    watched.scene.second()?;
    let furnished = watched.scene.look(agent.home())?;
    let (before, now) = (watched.before.without(&below), furnished.without(&below));
    for place in ["routes", "rules", "bpffs", "qdiscs"] {
        let (before, now) = (&before.0[place], &now.0[place]);
        ensure!(
            sorted(before) == sorted(now),
            "{place}: {before:#?}, now {now:#?}"
        );
    }
    watched.before = furnished;
    let home = agent.end(Signal::SIGTERM)?;
    watched.same(&home, "SIGTERM")
}

fn sorted(lines: &[String]) -> Vec<&String> {
    let mut lines: Vec<_> = lines.iter().collect();
    lines.sort();
    lines
}

fn purge_after_a_crash() -> Result<()> {
    let home = Home::nested()?;
    let watched = Watched::new(&home)?;
    let agent = watched.scene.start(home)?;
    watched.connect(&agent)?;
    watched.up(&agent)?;
    for options in [&[][..], &["--dry-run"]] {
        let refused = purge(watched.here()?, agent.home(), options)?;
        ensure!(
            refused.status.code() == Some(6),
            "while an agent lives: {refused:?}"
        );
        ensure!(refused.stdout.is_empty(), "{refused:?}");
        watched.same(agent.home(), "a purge that was refused")?;
    }
    watched.up(&agent)?;
    let home = agent.crash()?;
    let dry = done(&purge(watched.here()?, &home, &["--dry-run"])?)?;
    watched.same(&home, "purge --dry-run")?;
    ensure!(
        attached::programs(watched.here()?, INTERFACE)? == 4,
        "a dry run"
    );
    ensure!(
        !bed::route_to(watched.here()?, THERE)?.is_empty(),
        "a dry run"
    );

    let said = done(&purge(watched.here()?, &home, &[])?)?;
    watched.same(&home, "purge")?;
    ensure!(
        said == dry.replace("would remove", "removed"),
        "{dry}, then {said}"
    );
    for words in [
        "found 2 sessions, 2 peers".to_owned(),
        format!("removed route {THERE}/32 dev {INTERFACE}"),
        format!("removed program on {INTERFACE} (tc)"),
        format!("removed gate on {INTERFACE}"),
        "removed map dz_peers".to_owned(),
    ] {
        ensure!(said.lines().any(|line| line == words), "{words}: {said}");
    }
    for theirs in ["theirs", "peers", "10.5", &TAKEN.to_string()] {
        let named = said
            .lines()
            .skip(1)
            .any(|line| line.split([' ', '/']).any(|word| word == theirs));
        ensure!(!named, "{theirs}: {said}");
    }
    attached::until(watched.here()?, INTERFACE, 2)?;
    ensure!(bed::route_to(watched.here()?, THERE)?.is_empty());
    let again = done(&purge(watched.here()?, &home, &[])?)?;
    // What carries our number on their interface is named, and stays.
    ensure!(again.ends_with("nothing to purge\n"), "{again}");
    watched.same(&home, "a second purge")
}

/// Runs `purge` in the namespace.
pub(super) fn purge(netns: &Netns, home: &Home, options: &[&str]) -> Result<Output> {
    let mut command = Command::new(program()?);
    command.arg("purge").arg("--pin-dir").arg(home.pin_dir());
    command.args(options);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = netns.spawn(&mut command)?;
    child.wait_with_output().context("dz-agent purge")
}

/// What a purge that went well has said.
pub(super) fn done(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
