//! Restarts that lose a discriminator: a deployed peer clings to the one that it learned.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, HERE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;

use crate::NEEDS;

const INTERVAL_MS: u32 = 100;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("restart::deployed_peer", &NEEDS, deployed_peer),
        Test::new("restart::ours_without_its_secret", &NEEDS, ours),
    ]
}

fn deployed_peer() -> Result<()> {
    let bed = Bed::new("restart", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    let before = bed::until(agent.home(), State::Up)?.session;
    peer.restart_with_new_discriminators();
    bed::peer_until(&peer, State::Up)?;
    let after = bed::until(agent.home(), State::Up)?.session;
    ensure!(after.peer_discr != before.peer_discr, "{after:?}");
    bed::until_route(&bed.here, THERE, true)?;
    Ok(())
}

fn ours() -> Result<()> {
    let bed = Bed::new("restart", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    let before = bed::until(agent.home(), State::Up)?.session;
    // Gone with its pins and its state directory, without a goodbye.
    drop(agent.crash()?);
    bed::peer_until(&peer, State::Down)?;

    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let first = bed::entry(agent.home())?.session;
    bed::peer_until(&peer, State::Up)?;
    let after = bed::until(agent.home(), State::Up)?.session;
    println!(
        "discriminator {:08x}, after the restart {:08x}, adopted {:08x}",
        before.local_discr, first.local_discr, after.local_discr
    );
    ensure!(
        after.local_discr == before.local_discr,
        "the peer has let go of {:x}? {after:?}",
        before.local_discr
    );
    let theirs = peer.session(HERE).context("no session")?;
    ensure!(theirs.session.peer_discr == before.local_discr);
    bed::until_route(&bed.here, THERE, true)?;
    Ok(())
}
