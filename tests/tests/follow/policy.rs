//! Excluded destinations and overridden timers, from the command line and from the file.

use std::fs;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::Mode;
use dz_tests::bed::{HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{ALLOCATED, NEEDS, PEERS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("policy::excluded", &NEEDS, excluded),
        Test::new("policy::overridden", &NEEDS, overridden),
        Test::new("policy::refused", &NEEDS, refused),
    ]
}

fn excluded() -> Result<()> {
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let [first, second, third] = PEERS;
    fs::write(&file, "")?;
    let path = file.to_str().context("UTF-8")?;
    let exclude = format!("10.66.0.0/16,{first}");
    let follow = [
        "--follow",
        "proto=bgp",
        "--peers",
        path,
        "--exclude",
        &exclude,
    ];
    let mut scene = Scene::new("follow", &follow)?;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    let routes = scene.table()?;
    scene.until_up(&[(second, HERE)])?;
    let (here, address) = (HERE.to_string(), first.to_string());
    let said = scene.refused(&["connect", &address, "--local", &here])?;
    ensure!(said.contains("excluded by 10.9.0.1/32"), "{said}");
    let said = scene.refused(&["connect", "10.66.7.8", "--local", &here])?;
    ensure!(said.contains("excluded by 10.66.0.0/16"), "{said}");
    let shown = scene.agent.cli(&["sessions"])?;
    ensure!(
        shown.contains("followed routes without a session: 1 (destination is excluded)"),
        "{shown}"
    );
    // An excluded line is a fault of the file.
    fs::write(&file, format!("{first} local {HERE}\n"))?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    scene.logged("excluded by 10.9.0.1/32")?;
    // Newly excluded, a followed peer and one of a request are given up; the routes stay.
    scene
        .agent
        .cli(&["connect", &third.to_string(), "--local", &here])?;
    scene.until_up(&[(second, HERE), (third, HERE)])?;
    fs::write(&file, "exclude 10.9.0.0/24\n")?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    scene.until_up(&[])?;
    scene.logged("it is excluded now")?;
    eventually(PATIENCE, "their routes", || {
        let table = scene.table()?;
        ensure!(table == routes, "{table}");
        anyhow::Ok(())
    })?;
    fs::write(&file, "")?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    scene.until_up(&[(second, HERE)])
}

fn overridden() -> Result<()> {
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let [first, second, third] = PEERS;
    fs::write(
        &file,
        format!("override {first} detect-mult 40\n{third} local {HERE} active\n"),
    )?;
    let path = file.to_str().context("UTF-8")?;
    let follow = [
        "--follow",
        "proto=bgp",
        "--peers",
        path,
        "--override",
        "10.9.0.0/24 tx-interval 200ms passive",
        "--override",
        "10.0.0.0/8 detect-mult 50",
    ];
    let mut scene = Scene::new("follow", &follow)?;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&PEERS.map(|peer| (peer, HERE)))?;
    let timers = |scene: &Scene| -> Result<_> {
        let wanted = scene.wanted()?;
        Ok(PEERS.map(|peer| {
            let timers = wanted.get(&peer).map(|peer| peer.timers);
            timers.map(|t| (t.desired_min_tx_us, t.detect_mult, t.mode))
        }))
    };
    let found = timers(&scene)?;
    let wanted = [
        (100_000, 40, Mode::Active), // the longest prefix, and that alone
        (200_000, 30, Mode::Passive),
        (200_000, 30, Mode::Active), // its line says so
    ];
    ensure!(found == wanted.map(Some), "{found:?}");
    // In passive mode, too, we have no route beside theirs.
    let ours = scene.route("show proto 144")?;
    ensure!(!ours.contains(&second.to_string()), "{ours}");
    // A changed override changes those whom it is about, and no others.
    let before = scene.sessions()?;
    fs::write(
        &file,
        format!("override {first} detect-mult 41\n{third} local {HERE} active\n"),
    )?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    eventually(PATIENCE, "another session", || {
        let entries = scene.entries()?;
        let mut entries = entries
            .iter()
            .filter(|entry| entry.session.state == State::Up);
        let changed = entries.any(|entry| entry.session.timers.detect_mult == 41);
        ensure!(changed, "not yet");
        anyhow::Ok(())
    })?;
    let after = scene.sessions()?;
    for peer in [second, third] {
        ensure!(
            after.get(&peer) == before.get(&peer),
            "{before:?}, then {after:?}"
        );
    }
    // One of a request gets them as defaults.
    let allocated = ALLOCATED.to_string();
    scene
        .agent
        .cli(&["connect", "10.1.2.3", "--local", &allocated])?;
    let wanted = scene.wanted()?;
    let peer = wanted.get(&[10, 1, 2, 3].into()).context("no peer")?;
    ensure!(peer.timers.detect_mult == 50, "{peer:?}");
    Ok(())
}

/// Command lines that make no sense: one line, and the code of the command line.
fn refused() -> Result<()> {
    let home = dz_tests::agent::Home::new()?;
    for (words, reason) in [
        (
            &["--follow", "proto=kernel"][..],
            "the kernel makes those routes itself",
        ),
        (&["--follow", "table=local"], "own addresses"),
        (&["--follow", "proto=144"], "--route-protocol"),
        (&["--follow", "everything"], "is not proto=NAME"),
        (&["--exclude", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (&["--override", "10.0.0.0/8"], "nothing is overridden"),
        (
            &["--override", "10.0.0.1 passive; 10.0.0.1 active"],
            "given twice",
        ),
    ] {
        let words: Vec<_> = ["run"].iter().chain(words).collect();
        let output = home.command(&words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{words:?}: {output:?}");
        ensure!(
            said.contains(reason) && said.lines().count() == 1,
            "{words:?}: {said}"
        );
    }
    Ok(())
}
