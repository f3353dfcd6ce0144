//! Two interfaces with the same addresses at both ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, HERE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::{eventually, holds};
use serde_json::Value;

use crate::scene::{NAMES, NEEDS, Scene};

const AFTERWARDS: Duration = Duration::from_millis(1_000);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("shared::each_its_session", &NEEDS, each_its_session),
        Test::new("shared::one_route", &NEEDS, one_route),
        Test::new("shared::named_or_refused", &NEEDS, named_or_refused),
        Test::new("shared::one_file", &NEEDS, one_file),
    ]
}

/// What happens on one wire is nothing to the other's session.
fn each_its_session() -> Result<()> {
    let scene = Scene::new("shared")?;
    let [first, second] = NAMES;
    scene.connect(first)?;
    scene.connect(second)?;
    let one = scene.until(first, State::Up)?;
    let other = scene.until(second, State::Up)?;
    ensure!(
        (one.key.local, one.key.peer) == (other.key.local, other.key.peer),
        "{one:?} {other:?}"
    );
    ensure!(
        one.session.local_discr != other.session.local_discr,
        "one discriminator for two sessions"
    );
    ensure!(one.block != other.block, "counted together");
    scene.sides[0].wire.set_cut_both(true);
    scene.until(first, State::Down)?;
    let still = |what: &str| {
        let now = scene.session(second)?;
        ensure!(
            now.session.state == State::Up
                && now.session.transitions == other.session.transitions
                && now.generation == other.generation,
            "{what}: {now:?}"
        );
        anyhow::Ok(now)
    };
    holds(AFTERWARDS, "the other session stays Up", || still("cut"))?;
    scene.sides[0].wire.set_cut_both(false);
    scene.until(first, State::Up)?;
    ensure!(still("back")?.received > other.received);
    Ok(())
}

/// The table has room for one route to an address: it moves to the interface whose session is Up.
fn one_route() -> Result<()> {
    let scene = Scene::new("oneroute")?;
    let [first, second] = NAMES;
    scene.connect(first)?;
    scene.until(first, State::Up)?;
    scene.until_route_by(first)?;
    scene.connect(second)?;
    scene.until(second, State::Up)?;
    eventually(PATIENCE, "the reason in the table", || {
        let shown = scene.agent.cli(&["sessions"])?;
        let wanted = format!("the route to it is by {first} at present");
        ensure!(shown.contains(&wanted), "{shown}");
        anyhow::Ok(())
    })?;
    scene.sides[0].wire.set_cut_both(true);
    scene.until(first, State::Down)?;
    scene.until_route_by(second)?;
    scene.sides[0].wire.set_cut_both(false);
    scene.until(first, State::Up)?;
    scene.until_route_by(second)?;
    // Also when it is given up, and when its interface goes.
    let there = THERE.to_string();
    scene
        .agent
        .cli(&["disconnect", &there, "--interface", second])?;
    scene.until_route_by(first)?;
    scene.connect(second)?;
    scene.until(second, State::Up)?;
    scene.here.ip(&format!("link set {first} down"))?;
    scene.until_route_by(second)
}

fn named_or_refused() -> Result<()> {
    let scene = Scene::new("named")?;
    let [first, second] = NAMES;
    let (here, there) = (HERE.to_string(), THERE.to_string());
    let refused = |words: &[&str], expected: &str| {
        let output = scene.agent.home().command(words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(8) && said.contains(expected),
            "{output:?}"
        );
        anyhow::Ok(())
    };
    refused(
        &["connect", &there, "--local", &here],
        "several interfaces hold 169.254.7.0: name one",
    )?;
    ensure!(bed::entries(scene.agent.home())?.is_empty());
    scene.connect(first)?;
    scene.connect(second)?;
    let kept = scene.until(first, State::Up)?;
    scene.until(second, State::Up)?;
    refused(&["disconnect", &there], "on several interfaces; name one")?;
    scene
        .agent
        .cli(&["disconnect", &there, "--interface", second])?;
    let entries = bed::entries(scene.agent.home())?;
    ensure!(
        entries.len() == 1 && entries[0].generation == kept.generation,
        "{entries:?}"
    );
    let shown = scene.agent.json(&["sessions", "--json"])?;
    let interface = |session: &Value| session["interface"].as_str().map(str::to_owned);
    let shown: Vec<_> = shown["sessions"]
        .as_array()
        .context("no sessions")?
        .iter()
        .map(interface)
        .collect();
    ensure!(shown == [Some(first.to_owned())], "{shown:?}");
    scene.agent.cli(&["disconnect", "--all"])?;
    ensure!(bed::entries(scene.agent.home())?.is_empty());
    Ok(())
}

/// A batch is about as many interfaces as its lines name.
fn one_file() -> Result<()> {
    let scene = Scene::new("onefile")?;
    let file: String = NAMES
        .iter()
        .map(|name| format!("{THERE} local {HERE} interface {name}\n"))
        .collect();
    for (verb, sessions) in [("connect", 2), ("disconnect", 0)] {
        let words = [verb, "--file", "-"];
        let output = scene.agent.home().command_reading(&words, &file)?;
        ensure!(output.status.success(), "{output:?}");
        let entries = bed::entries(scene.agent.home())?;
        ensure!(entries.len() == sessions, "{verb}: {entries:?}");
    }
    Ok(())
}
