//! The route follows the session.

use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, HERE, THERE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("routes::follow", &NEEDS, follow)]
}

fn follow() -> Result<()> {
    let bed = Bed::new("route", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    ensure!(
        bed::route_to(&bed.here, THERE)?.is_empty(),
        "a route to a peer that nobody has heard of"
    );
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::until_route(&bed.here, THERE, true)?;
    let route = bed::route_to(&bed.here, THERE)?;
    let expected = format!("dev doublezero0 scope link src {HERE}");
    ensure!(route.contains(&expected), "{route}");
    // It is what the kernel would use.
    let used = bed.here.ip(&format!("route get {THERE}"))?;
    ensure!(used.contains(&format!("src {HERE}")), "{used}");

    peer.silence();
    bed::until_route(&bed.here, THERE, false)?;
    bed::until(agent.home(), State::Down)?;
    peer.resume();
    bed::until_route(&bed.here, THERE, true)?;
    bed::peer_until(&peer, State::Up)?;

    // Somebody else deletes it: it is put back.
    bed.here.ip(&format!("route delete {THERE}/32 proto 144"))?;
    bed::until_route(&bed.here, THERE, true)?;
    Ok(())
}
