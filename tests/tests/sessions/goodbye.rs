//! Leaving politely: AdminDown to the peer, the route gone, nothing of ours left.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::attached;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::bpftool;
use dz_tests::harness::{Requirement, Test};
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::{eventually, holds, monotonic_ns};
use dz_tests::wire::Direction;
use nix::sys::signal::Signal;

use crate::NEEDS;

const INTERVAL_MS: u32 = 100;
/// Several intervals, in which the peer goes on sending.
const AFTERWARDS: Duration = Duration::from_millis(1_000);
/// AdminDown packets to each peer.
const FAREWELLS: usize = 3;

pub(super) fn tests() -> Vec<Test> {
    let needs = [NEEDS[0], NEEDS[1], Requirement::Tool("bpftool")];
    vec![
        Test::new("goodbye::disconnect", &NEEDS, disconnect),
        Test::new("goodbye::sigterm", &needs, sigterm),
    ]
}

fn disconnect() -> Result<()> {
    let bed = Bed::new("bye", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    bed::until_route(&bed.here, THERE, true)?;
    let before_ns = monotonic_ns();
    agent.cli(&["disconnect", &THERE.to_string()])?;
    // All of it is done when the reply comes: no waiting here.
    let route = bed::route_to(&bed.here, THERE)?;
    ensure!(route.is_empty(), "after the reply: {route}");
    ensure!(bed::entries(agent.home())?.is_empty(), "a session is left");
    peer_left(&peer)?;
    farewells(&bed, before_ns, 1)?;
    let sent = bed.wire.counts().a_to_b;
    let heard = bed.wire.counts().b_to_a;
    holds(AFTERWARDS, "silence", || {
        let now = bed.wire.counts().a_to_b;
        ensure!(now == sent, "{} packets", now - sent);
        anyhow::Ok(())
    })?;
    ensure!(bed.wire.counts().b_to_a > heard, "the peer went on asking");
    Ok(())
}

fn sigterm() -> Result<()> {
    const PEERS: u8 = 5;
    let bed = Bed::new("term", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let mut peers = Vec::new();
    for last in 0..PEERS {
        let address = std::net::Ipv4Addr::new(10, 7, 0, last);
        bed.there
            .ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
        let peer = bed.peer_at(address, Rules::Deployed, INTERVAL_MS)?;
        peer.add_session(HERE);
        agent.cli(&[
            "connect",
            &address.to_string(),
            "--local",
            &HERE.to_string(),
        ])?;
        peers.push((address, peer));
    }
    for (address, peer) in &peers {
        bed::peer_until(peer, State::Up)?;
        bed::until_route(&bed.here, *address, true)?;
    }
    ensure!(
        attached::programs(&bed.here, INTERFACE)? > 0,
        "nothing attached"
    );
    let pins = agent.home().pin_dir().to_owned();
    let maps = map_ids(&pins)?;
    ensure!(maps.len() >= 10, "{maps:?}");

    let before_ns = monotonic_ns();
    let home = agent.end(Signal::SIGTERM)?;
    let routes = bed.here.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "left behind: {routes}");
    ensure!(!home.socket().exists(), "the socket is left");
    ensure!(left(&pins) == 0, "{} pins are left", left(&pins));
    ensure!(
        attached::programs(&bed.here, INTERFACE)? == 0,
        "still attached"
    );
    for (_, peer) in &peers {
        peer_left(peer)?;
    }
    farewells(&bed, before_ns, peers.len())?;
    let sent = bed.wire.counts().a_to_b;
    // The kernel frees maps and programs a moment after their last user is gone. What the host's
    // stack answers for a port that is free again (ICMP) is not ours.
    eventually(PATIENCE, "no map of ours", || {
        let left: Vec<_> = maps.iter().filter(|id| exists(**id)).collect();
        ensure!(left.is_empty(), "maps {left:?}");
        anyhow::Ok(())
    })?;
    holds(AFTERWARDS, "silence", || {
        let spoken = bed::liveness(&bed.wire, Direction::AToB);
        let late = spoken
            .iter()
            .skip_while(|(record, _)| record.at_ns < before_ns);
        let count = late.count();
        ensure!(
            count == FAREWELLS * peers.len(),
            "{count} packets since SIGTERM"
        );
        anyhow::Ok(())
    })?;
    println!("{sent} packets in all");
    Ok(())
}

fn peer_left(peer: &UdpPeer) -> Result<()> {
    bed::peer_until(peer, State::Down)?;
    let session = peer.session(HERE).context("no session")?.session;
    ensure!(
        session.last_down_reason == DownReason::RemoteAdmin,
        "{session:?}"
    );
    Ok(())
}

/// Three AdminDown packets to each peer, and none of another state after the first of them.
fn farewells(bed: &Bed, since_ns: u64, peers: usize) -> Result<()> {
    let said = eventually(PATIENCE, "farewells on the wire", || {
        let packets = bed::liveness(&bed.wire, Direction::AToB);
        let said: Vec<_> = packets
            .into_iter()
            .filter(|(record, packet)| record.at_ns >= since_ns && packet.state == State::AdminDown)
            .collect();
        ensure!(said.len() >= FAREWELLS * peers, "{} of them", said.len());
        anyhow::Ok(said)
    })?;
    ensure!(said.len() == FAREWELLS * peers, "{} of them", said.len());
    let first = |to: &[u8]| {
        let to_peer = said.iter().find(|(record, _)| &record.packet[16..20] == to);
        to_peer.map(|(record, _)| record.at_ns)
    };
    for (record, packet) in bed::liveness(&bed.wire, Direction::AToB) {
        let before = first(&record.packet[16..20]).is_none_or(|at_ns| record.at_ns < at_ns);
        ensure!(
            before || packet.state == State::AdminDown,
            "{} after AdminDown",
            packet.state.name()
        );
    }
    Ok(())
}

fn left(pins: &Path) -> usize {
    std::fs::read_dir(pins).map_or(0, Iterator::count)
}

/// Kernel ids of the maps pinned in a directory.
fn map_ids(pins: &Path) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for file in std::fs::read_dir(pins)? {
        let path = file?.path();
        let is_map = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("dz_"));
        if is_map {
            let shown = bpftool::json(&["map", "show", "pinned", &path.to_string_lossy()])?;
            ids.push(shown["id"].as_u64().context("a map without an id")?);
        }
    }
    Ok(ids)
}

fn exists(map: u64) -> bool {
    bpftool::json(&["map", "show", "id", &map.to_string()]).is_ok()
}
