//! What a dead agent leaves, and `purge`.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use dz_common::packet::State;
use dz_tests::agent::{Home, program};
use dz_tests::attached;
use dz_tests::bed::{self, Bed, INTERFACE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;
/// A route of somebody else's over the same interface.
const FOREIGN: &str = "10.8.0.1";

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("purge::after_a_crash", &NEEDS, after_a_crash),
        Test::new("purge::another_layout", &NEEDS, another_layout),
    ]
}

fn purge(bed: &Bed, home: &Home, options: &[&str]) -> Result<Output> {
    let mut command = Command::new(program()?);
    command.arg("purge").arg("--pin-dir").arg(home.pin_dir());
    command.args(options);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let child = bed.here.spawn(&mut command)?;
    child.wait_with_output().context("dz-agent purge")
}

fn said(output: &Output) -> Result<String> {
    let (text, faults) = (&output.stdout, &output.stderr);
    println!(
        "{}{}",
        String::from_utf8_lossy(text),
        String::from_utf8_lossy(faults)
    );
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn after_a_crash() -> Result<()> {
    let bed = Bed::new("purge", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let _peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::until(agent.home(), State::Up)?;
    bed::until_route(&bed.here, THERE, true)?;
    bed.here
        .ip(&format!("route add {FOREIGN} dev {INTERFACE} proto 186"))?;
    bed.here.ip("link set lo up")?;
    // Our number on an interface that is not ours.
    bed.here.ip("route add 10.8.0.2 dev lo proto 144")?;
    let home = agent.home();
    // The same map under a name that is not ours: a foreign file.
    let foreign = home.pin_dir().join("foreign");
    MapData::from_pin(home.pin_dir().join("dz_peers"))?.pin(&foreign)?;

    let refused = purge(&bed, home, &[])?;
    ensure!(
        refused.status.code() == Some(6),
        "while an agent runs: {refused:?}"
    );
    ensure!(refused.stdout.is_empty(), "{refused:?}");
    bed::until_route(&bed.here, THERE, true)?;
    ensure!(bed::entry(home)?.session.state == State::Up);
    ensure!(attached::programs(&bed.here, INTERFACE)? == 2);

    let home = agent.crash()?;
    let dry = said(&purge(&bed, &home, &["--dry-run"])?)?;
    let route = format!("route {THERE}/32 dev {INTERFACE}\n");
    ensure!(dry.contains(&format!("would remove {route}")), "{dry}");
    // As links whose pins go, or as filters of the device.
    let (gate, program) = match attached::by_tcx() {
        true => ("", "tc"),
        false => (" (tc filter)", "tc filter"),
    };
    ensure!(
        dry.contains(&format!("would remove gate on {INTERFACE}{gate}\n")),
        "{dry}"
    );
    ensure!(!dry.contains("pin directory"), "{dry}");
    ensure!(attached::programs(&bed.here, INTERFACE)? == 2, "a dry run");
    ensure!(!bed::route_to(&bed.here, THERE)?.is_empty(), "a dry run");

    let done = said(&purge(&bed, &home, &[])?)?;
    ensure!(done == dry.replace("would remove", "removed"), "{done}");
    ensure!(done.contains("found 1 sessions, 1 peers\n"), "{done}");
    ensure!(done.contains("removed map dz_sessions\n"), "{done}");
    ensure!(
        done.contains(&format!("removed program on {INTERFACE} ({program})\n")),
        "{done}"
    );
    ensure!(bed::route_to(&bed.here, THERE)?.is_empty());
    ensure!(attached::programs(&bed.here, INTERFACE)? == 0);
    let left: Vec<_> = fs::read_dir(home.pin_dir())?
        .flatten()
        .map(|file| file.path())
        .collect();
    ensure!(left == [foreign.as_path()], "{left:?}");
    for (route, number) in [(FOREIGN, 186), ("10.8.0.2", 144)] {
        let shown = bed
            .here
            .ip(&format!("route show proto {number} to exact {route}"))?;
        ensure!(!shown.is_empty(), "the route to {route} is gone");
    }

    let nothing = said(&purge(&bed, &home, &[])?)?;
    let named = "left alone: routes of our protocol number on lo (1)";
    ensure!(nothing.starts_with(named), "{nothing}");
    ensure!(nothing.ends_with("nothing to purge\n"), "{nothing}");
    fs::remove_file(&foreign)?;
    let last = said(&purge(&bed, &home, &["--interface", "lo"])?)?;
    ensure!(
        last.contains("removed route 10.8.0.2/32 dev lo\n"),
        "{last}"
    );
    ensure!(last.contains("removed pin directory"), "{last}");
    ensure!(!home.pin_dir().exists());
    ensure!(said(&purge(&bed, &home, &[])?)? == "nothing to purge\n");
    Ok(())
}

/// Maps that this version cannot read go as well.
fn another_layout() -> Result<()> {
    let bed = Bed::new("purge", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let home = agent.crash()?;
    // Of other sizes, and under one name that this version does not have.
    let pins = home.pin_dir();
    fs::remove_file(pins.join("dz_sessions"))?;
    MapData::from_pin(pins.join("dz_heartbeat"))?.pin(pins.join("dz_sessions"))?;
    MapData::from_pin(pins.join("dz_heartbeat"))?.pin(pins.join("dz_later"))?;
    let done = said(&purge(&bed, &home, &[])?)?;
    ensure!(done.contains("cannot read"), "{done}");
    ensure!(done.contains("removed map dz_later\n"), "{done}");
    ensure!(!home.pin_dir().exists());
    ensure!(attached::programs(&bed.here, INTERFACE)? == 0);
    Ok(())
}
