//! What our programs transmit passes our own gate, and is counted there where it belongs.

use anyhow::{Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;

use crate::scene::NEEDS;

const INTERVAL_MS: u32 = 50;
/// Of each kind.
const ENOUGH: u64 = 5;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("own::all_counted", &NEEDS, all_counted)]
}

/// Answers, and what our clock sends while the peer is silent.
fn all_counted() -> Result<()> {
    let bed = Bed::new("own", std::time::Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let peer = bed.peer(Rules::Ours, INTERVAL_MS)?;
    bed::connect(&agent)?;
    bed::until(agent.home(), State::Up)?;
    eventually(PATIENCE, "answers", || {
        ensure!(bed::entry(agent.home())?.answered >= ENOUGH, "too few");
        anyhow::Ok(())
    })?;
    drop(peer);
    let reader = MapReader::from_pins(agent.home().pin_dir())?;
    eventually(PATIENCE, "as many at the gate as sent", || {
        let entry = bed::entry(agent.home())?;
        ensure!(entry.originated >= ENOUGH, "too few of our clock's");
        let ours = reader.counters(entry.block)?;
        let counted = ours.gate_liveness;
        let elsewhere = reader.counters(0)?.gate_liveness;
        // Stateless answers are no transmissions of the session.
        let sent = entry.answered + entry.originated + ours.rx_unproven_answered;
        ensure!(
            (counted, elsewhere) == (sent, 0),
            "{sent} sent, {counted} counted, and {elsewhere} in block 0"
        );
        anyhow::Ok(())
    })
}
