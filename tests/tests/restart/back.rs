//! Restarts that peers do notice: they come back, although a deployed peer clings to what it knows.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::crowd::Crowd;
use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("back::after_sigterm", &NEEDS, || after_sigterm(false)),
        Test::new("back::without_the_secret", &NEEDS, || after_sigterm(true)),
        Test::new("back::deployed_peer_restarted", &NEEDS, deployed_peer),
        Test::new("back::nothing_left_of_ours", &NEEDS, nothing_left),
        Test::new("back::hangups_while_starting", &NEEDS, hangups),
    ]
}

/// Everybody comes back: with the discriminators that the peers remember, or without the secret with
/// others, which the peers learn.
fn after_sigterm(secret_lost: bool) -> Result<()> {
    let crowd = Crowd::new("back")?;
    let agent = crowd.start(Home::new()?)?;
    crowd.connect(&agent)?;
    let before = crowd.peers.sessions();
    let home = agent.end(Signal::SIGTERM)?;
    if secret_lost {
        fs::remove_dir_all(home.state_dir())?;
    }
    let agent = crowd.start(home)?;
    crowd.connect(&agent)?;
    let after = crowd.peers.sessions();
    for (before, after) in before.iter().zip(&after) {
        let (was, is) = (&before.session, &after.session);
        let remembered = is.peer_discr == was.peer_discr;
        ensure!(remembered != secret_lost, "{was:?}, then {is:?}");
        let changes = after.changes.iter();
        let mut fallen = changes.filter(|change| change.from == State::Up);
        let told = fallen.next().map(|change| change.reason);
        ensure!(told == Some(DownReason::RemoteAdmin), "{told:?}");
        ensure!(fallen.next().is_none(), "{after:?}");
    }
    println!("{} peers are back", after.len());
    Ok(())
}

/// The peer restarts, and knows nothing.
fn deployed_peer() -> Result<()> {
    let bed = Bed::new("restart", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    let before = bed::until(agent.home(), State::Up)?.session;
    peer.restart_with_new_discriminators();
    bed::peer_until(&peer, State::Up)?;
    // It is Up by a stateless answer, and proves itself with its next packet.
    eventually(PATIENCE, "a session with the peer as it is now", || {
        let after = bed::until(agent.home(), State::Up)?.session;
        ensure!(after.peer_discr != before.peer_discr, "{after:?}");
        ensure!(after.transitions == before.transitions, "{after:?}");
        anyhow::Ok(())
    })?;
    bed::until_route(&bed.here, THERE, true)?;
    Ok(())
}

/// Gone without a goodbye, with the pins and the state directory.
fn nothing_left() -> Result<()> {
    let bed = Bed::new("restart", Duration::ZERO)?;
    // Before 6.6 a filter stays, whatever becomes of the pins, and answers until this is over.
    let agent = bed.agent_with(INTERVAL_MS, &["--restart-grace=2s"])?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    let before = bed::until(agent.home(), State::Up)?.session;
    drop(agent.crash()?);
    bed::peer_until(&peer, State::Down)?;

    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let first = bed::entry(agent.home())?.session;
    bed::peer_until(&peer, State::Up)?;
    let after = bed::until(agent.home(), State::Up)?.session;
    println!(
        "discriminator {:08x}, after the restart {:08x}",
        before.local_discr, after.local_discr
    );
    ensure!(after.local_discr == first.local_discr, "{after:?}");
    ensure!(after.local_discr != before.local_discr, "the same secret?");
    // It is Up before it has learned who we are now.
    eventually(PATIENCE, "a peer that has let go", || {
        let theirs = peer.session(HERE).context("no session")?.session;
        ensure!(theirs.peer_discr == after.local_discr, "{theirs:?}");
        anyhow::Ok(())
    })?;
    bed::until_route(&bed.here, THERE, true)?;
    Ok(())
}

/// SIGHUP after SIGHUP, while the verifier looks at programs: it starts all the same.
fn hangups() -> Result<()> {
    let bed = Bed::new("hangups", Duration::ZERO)?;
    let arguments = ["--interface", INTERFACE, "--metrics-listen=off"];
    let mut agent = Agent::spawn_in(Home::new()?, &bed.here, &arguments)?;
    // Before that it would die of the signal, as it should.
    let status = format!("/proc/{}/status", agent.process().pid());
    eventually(PATIENCE, "a handler of SIGHUP", || {
        let status = fs::read_to_string(&status).ok()?;
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & 1 == 1).then_some(())
    })?;
    eventually(PATIENCE, "an agent that has started", || {
        if let Some(status) = agent.process().ended()? {
            return Ok(Err(anyhow::anyhow!("ended with {status}")));
        }
        agent.process().signal(Signal::SIGHUP)?;
        ensure!(agent.process().log().contains("ready"), "not yet");
        anyhow::Ok(Ok(()))
    })?
}
