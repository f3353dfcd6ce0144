//! Interfaces that come, go, and are of different kinds.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::attached;
use dz_tests::bed::{HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use dz_tests::wire::TunWire;

use crate::scene::{NAMES, NEEDS, Scene, wire};

/// At the far end of the Ethernet.
const BY_ETHERNET: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("apart::one_goes", &NEEDS, one_goes),
        Test::new("apart::kinds", &NEEDS, kinds),
    ]
}

/// An interface that is deleted and created anew takes nothing of the other with it.
fn one_goes() -> Result<()> {
    let scene = Scene::new("onegoes")?;
    let [first, second] = NAMES;
    scene.connect(first)?;
    scene.connect(second)?;
    let before = scene.until(first, State::Up)?;
    let other = scene.until(second, State::Up)?;
    let Scene {
        here,
        sides: [one, two],
        agent,
    } = scene;
    drop(one.wire);
    eventually(PATIENCE, "parked with the reason", || {
        let shown = agent.json(&["sessions", "--json"])?;
        let parked = &shown["parked"][0];
        ensure!(
            parked["interface"] == first && parked["reason"].to_string().contains("is gone"),
            "{shown}"
        );
        anyhow::Ok(())
    })?;
    let wire = wire(&here, first, &one.there)?;
    let scene = Scene {
        here,
        sides: [crate::scene::Side { wire, ..one }, two],
        agent,
    };
    let after = scene.until(first, State::Up)?;
    ensure!(
        after.key.ifindex != before.key.ifindex
            && after.session.local_discr == before.session.local_discr,
        "{before:?}, then {after:?}"
    );
    let untouched = scene.session(second)?;
    ensure!(
        untouched.generation == other.generation
            && untouched.session.transitions == other.session.transitions,
        "{other:?}, then {untouched:?}"
    );
    scene.until_route_by(second)
}

/// A layer-3 device and an Ethernet in one agent, each with the programs made for it.
fn kinds() -> Result<()> {
    let (here, there) = (Netns::new("kinds")?, Netns::new("kinds")?);
    let near = Tun::new(&here, INTERFACE, &["169.254.7.0/31"])?;
    let far = Tun::new(&there, INTERFACE, &["169.254.7.1/31"])?;
    let _wire = TunWire::connect(near, far, std::time::Duration::ZERO)?;
    veth::pair(
        &End::new(&here, "eth1", "10.3.0.0/31"),
        &End::new(&there, "eth1", "10.3.0.1/31"),
    )?;
    let interfaces = format!("{INTERFACE},eth1");
    let agent = Agent::start(&here, &["--interface", &interfaces, "--attach", "tc"])?;
    let peers = [(HERE, THERE), (Ipv4Addr::new(10, 3, 0, 0), BY_ETHERNET)];
    let mut spoken = Vec::new();
    for (local, peer) in peers {
        let config = UdpPeerConfig::new(peer);
        let far = there.run(|| UdpPeer::spawn(config))?;
        far.add_session(local);
        spoken.push(far);
        let (local, peer) = (local.to_string(), peer.to_string());
        agent.cli(&["connect", &peer, "--local", &local])?;
    }
    eventually(PATIENCE, "both Up", || {
        let status = agent.json(&["status", "--json"])?;
        ensure!(status["sessions"]["up"] == 2, "{status}");
        anyhow::Ok(())
    })?;
    let shown = agent.cli(&["status"])?;
    println!("{shown}");
    for name in [INTERFACE, "eth1"] {
        ensure!(attached::programs(&here, name)? == 2, "{name}: {shown}");
        let line = shown.lines().find(|line| line.starts_with(name));
        ensure!(
            line.is_some_and(|line| line.contains(" tc ") && line.contains("served")),
            "{shown}"
        );
    }
    Ok(())
}
