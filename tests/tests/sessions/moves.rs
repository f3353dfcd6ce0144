//! The ground moves under a session: its interface or its address goes and comes back.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Test;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::{eventually, holds};
use dz_tests::wire::Direction;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 100;
const AFTERWARDS: Duration = Duration::from_millis(1_500);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("moves::interface", &NEEDS, interface_created_anew),
        Test::new("moves::address", &NEEDS, address_removed),
    ]
}

fn interface_created_anew() -> Result<()> {
    let bed = Bed::new("anew", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    let before = bed::until(agent.home(), State::Up)?;
    bed::until_route(&bed.here, THERE, true)?;

    let Bed { here, there, wire } = bed;
    drop(wire);
    eventually(PATIENCE, "no session without an interface", || {
        let entries = bed::entries(agent.home())?;
        ensure!(entries.is_empty(), "{entries:?}");
        anyhow::Ok(())
    })?;
    let bed = Bed::join(here, there)?;
    bed::peer_until(&peer, State::Up)?;
    let after = bed::until(agent.home(), State::Up)?;
    ensure!(
        after.key.ifindex != before.key.ifindex
            && after.key.ifindex == bed.here.ifindex(INTERFACE)?,
        "{before:?}, then {after:?}"
    );
    // The same to the peer as before: its discriminator does not hang on the index.
    ensure!(after.session.local_discr == before.session.local_discr);
    bed::until_route(&bed.here, THERE, true)?;
    Ok(())
}

fn address_removed() -> Result<()> {
    let ours = Ipv4Addr::new(10, 8, 0, 1);
    let bed = Bed::new("address", Duration::ZERO)?;
    let (add, remove) = (
        format!("address add {ours}/32 dev {INTERFACE}"),
        format!("address delete {ours}/32 dev {INTERFACE}"),
    );
    bed.here.ip(&add)?;
    bed.there.ip(&format!("route add {ours} dev {INTERFACE}"))?;
    let mut agent = bed.agent(INTERVAL_MS)?;
    agent.cli(&["connect", &THERE.to_string(), "--local", &ours.to_string()])?;
    let peer = bed.peer_at(THERE, Rules::Deployed, INTERVAL_MS)?;
    peer.add_session(ours);
    bed::until(agent.home(), State::Up)?;
    bed::until_route(&bed.here, THERE, true)?;

    let spoken = || {
        let records = bed.wire.records().into_iter();
        let from_us = |packet: &[u8]| parse_udp(packet).is_some_and(|udp| *udp.src.ip() == ours);
        records
            .filter(|record| record.direction == Direction::AToB && from_us(&record.packet))
            .count()
    };
    bed.here.ip(&remove)?;
    let at_removal = spoken();
    eventually(PATIENCE, "no session without an address", || {
        let entries = bed::entries(agent.home())?;
        ensure!(entries.is_empty(), "{entries:?}");
        anyhow::Ok(())
    })?;
    let parked = spoken();
    println!(
        "packets between the removal and the end of the session: {}",
        parked - at_removal
    );
    let heard = bed.wire.counts().b_to_a;
    holds(AFTERWARDS, "no packet from an address that is gone", || {
        let now = spoken();
        ensure!(now == parked, "{} packets", now - parked);
        anyhow::Ok(())
    })?;
    ensure!(bed.wire.counts().b_to_a > heard, "the peer went on asking");
    bed::until_route(&bed.here, THERE, false)?;
    let passed = crate::readings::counters(&agent)?
        .get("pass_not_local")
        .copied();
    ensure!(passed > Some(0), "what is not ours goes on: {passed:?}");

    bed.here.ip(&add)?;
    bed::until(agent.home(), State::Up)?;
    bed::until_route(&bed.here, THERE, true)?;
    // The kernel has told that the route went with its source, which is no reason to ask for it again.
    let log = agent.process().log();
    let warned = |line: &&str| line.contains("WARN") && line.contains("adding route");
    let warning = log.lines().find(warned);
    ensure!(warning.is_none(), "{warning:?}");
    Ok(())
}
