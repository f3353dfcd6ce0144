//! Requests that an agent refuses, and an agent that is not there.

use std::time::Duration;

use anyhow::{Result, ensure};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, THERE};
use dz_tests::harness::Test;

use crate::scene::{NEEDS, refused};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("requests::no_agent", &NEEDS, no_agent),
        Test::new("requests::refused", &NEEDS, requests),
        Test::new("requests::capacity", &NEEDS, capacity),
    ]
}

fn no_agent() -> Result<()> {
    let home = Home::new()?;
    let (here, there) = (HERE.to_string(), THERE.to_string());
    for words in [
        &["sessions"][..],
        &["sessions", "--json"],
        &["counters"],
        &["connect", &there, "--local", &here],
        &["disconnect", "--all"],
    ] {
        refused(&home.command(words)?, 7, &["agent.sock"])?;
    }
    Ok(())
}

fn requests() -> Result<()> {
    let bed = Bed::new("refuse", Duration::ZERO)?;
    bed.here
        .ip(&format!("address add 10.5.0.1/32 dev {INTERFACE}"))?;
    let agent = bed.agent(1_000)?;
    let home = agent.home();
    let (here, there) = (HERE.to_string(), THERE.to_string());
    bed::connect(&agent)?;
    let before = bed::entries(home)?;
    for (words, code, expected) in [
        (
            &["disconnect", "10.1.2.3"][..],
            8,
            &["10.1.2.3", "not connected"][..],
        ),
        (
            &["connect", "10.1.2.3", "--local", "10.1.2.4"],
            8,
            &["10.1.2.4", "is not an address of this host"],
        ),
        (
            &[
                "connect",
                "10.1.2.3",
                "--local",
                &here,
                "--interface",
                "eth9",
            ],
            8,
            &["eth9 is not served by this agent"],
        ),
        (
            &["connect", &there, "--local", "10.5.0.1"],
            8,
            &["connected already", &here, "disconnect it first"],
        ),
        (
            &["connect", &there, "--local", &here, "--detect-mult", "9"],
            8,
            &["connected already", "other settings"],
        ),
        (
            &["connect", "10.1.2.3", "10.1.2.3", "--local", &here],
            8,
            &["10.1.2.3", "twice"],
        ),
        (
            &["connect", &here, "--local", &here],
            8,
            &[&here, "local address itself"],
        ),
    ] {
        let output = home.command(words)?;
        refused(&output, code, expected)?;
    }
    // Refused before anybody is asked.
    let output = home.command(&["connect", "2001:db8::1", "--local", &here])?;
    refused(&output, 2, &["2001:db8::1", "IPv4 only"])?;

    let after = bed::entries(home)?;
    ensure!(
        before.len() == 1 && after.len() == 1 && before[0].key == after[0].key,
        "{after:?}"
    );
    let routes = bed.here.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "{routes}");
    Ok(())
}

/// The number asked for counts, whatever the maps are rounded up to.
fn capacity() -> Result<()> {
    let bed = Bed::new("full", Duration::ZERO)?;
    let arguments = ["--interface", INTERFACE, "--max-sessions", "2"];
    let agent = Agent::start(&bed.here, &arguments)?;
    let local = HERE.to_string();
    let connect = |peers: &[&str]| {
        let words = ["connect", "--local", &local].into_iter();
        let words: Vec<_> = words.chain(peers.iter().copied()).collect();
        agent.home().command(&words)
    };
    let words = ["room for 2 of 2", "--max-sessions"];
    refused(&connect(&["10.4.0.1", "10.4.0.2", "10.4.0.3"])?, 8, &words)?;
    ensure!(bed::entries(agent.home())?.is_empty(), "all or none");
    ensure!(connect(&["10.4.0.1"])?.status.success());
    ensure!(connect(&["10.4.0.2"])?.status.success());
    refused(
        &connect(&["10.4.0.3"])?,
        8,
        &["room for 0 of 2", "--max-sessions"],
    )?;
    ensure!(bed::entries(agent.home())?.len() == 2);
    // Known ones are no new ones, and room comes back.
    ensure!(connect(&["10.4.0.1", "10.4.0.2"])?.status.success());
    agent.cli(&["disconnect", "10.4.0.1"])?;
    ensure!(connect(&["10.4.0.3"])?.status.success());
    Ok(())
}
