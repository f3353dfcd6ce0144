//! The hooks that make netlink fail: in the binary for tests, and in no other.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, HERE, THERE};
use dz_tests::faults::VARIABLE;
use dz_tests::harness::Test;
use dz_tests::program::{program, program_with_faults};
use dz_tests::udp_peer::Rules;

use crate::scene::{HELD_BACK, INTERVAL_MS, NEEDS};

/// Another peer, who is not there.
const OTHER: &str = "10.7.0.1";

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("hooks::only_for_tests", &[], only_for_tests),
        Test::new("hooks::delete_held_back", &NEEDS, delete_held_back),
    ]
}

fn only_for_tests() -> Result<()> {
    let has = |program: &std::path::Path| -> Result<bool> {
        let bytes = fs::read(program)?;
        Ok(String::from_utf8_lossy(&bytes).contains(VARIABLE))
    };
    ensure!(has(program_with_faults()?)?, "the search finds nothing");
    ensure!(!has(program()?)?, "fault hooks in the agent that users get");
    Ok(())
}

/// The answer to a disconnect waits for the kernel's, and nothing else does.
fn delete_held_back() -> Result<()> {
    let bed = Bed::new("held", Duration::ZERO)?;
    let agent = bed.agent_with_faults(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::until_route(&bed.here, THERE, true)?;
    agent.home().faults()?.delay_delete(HELD_BACK)?;
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let disconnected = scope.spawn(|| {
            agent.cli(&["disconnect", "--all"])?;
            anyhow::Ok(start.elapsed())
        });
        bed::peer_until(&peer, State::Down)?;
        let entries = bed::entries(agent.home())?;
        let admin_down = entries.iter().map(|entry| entry.session.state);
        ensure!(admin_down.eq([State::AdminDown]), "{entries:?}");
        // Of the engine's thread: `sessions`, say, is answered by that of the API.
        agent.cli(&["connect", OTHER, "--local", &HERE.to_string()])?;
        ensure!(
            !disconnected.is_finished(),
            "a connect waits for another peer's disconnect"
        );
        let took = disconnected
            .join()
            .map_err(|_| anyhow::anyhow!("panic"))??;
        ensure!(took >= HELD_BACK, "answered after {took:?}");
        Ok(())
    })?;
    agent.home().faults()?.clear()?;
    agent.cli(&["disconnect", OTHER])?;
    ensure!(bed::entries(agent.home())?.is_empty());
    ensure!(bed::route_to(&bed.here, THERE)?.is_empty());
    Ok(())
}
