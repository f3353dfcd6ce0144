//! Connect from A, disconnect, A goes, connect from B: in every combination of allocated addresses and
//! public ones.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::UdpPeer;
use dz_tests::wait::eventually;

use crate::scene::{A, B, NEEDS, PEERS, Places, Scene, far_side};

/// How often each peer asks for A after it is gone, before we say that nothing leaves from it.
const ASKED_AGAIN: usize = 5;

pub(super) fn tests() -> Vec<Test> {
    let each = |(name, places): (&str, Places)| {
        let address = move || another_address(places);
        let tunnel = move || another_tunnel(places);
        [
            Test::new(format!("replay::another_address_{name}"), &NEEDS, address),
            Test::new(format!("replay::another_tunnel_{name}"), &NEEDS, tunnel),
        ]
    };
    Places::ALL.into_iter().flat_map(each).collect()
}

/// The address is taken off its interface.
fn another_address(places: Places) -> Result<()> {
    let mut scene = Scene::new("incident", places)?;
    scene.connect(A)?;
    scene.until_up(A)?;

    disconnected(&scene)?;
    scene.address("delete", A)?;
    scene.address("add", B)?;
    scene.connect(B)?;
    scene.peers_ask(B);
    scene.until_up(B)?;
    // Deployed peers do not forget A: they go on asking for it.
    scene.peers_asked_again(A, ASKED_AGAIN)?;

    scene.ended_with_farewell(A)?;
    scene.until_up(B)?;
    scene.nothing_failed()
}

/// The whole tunnel is deleted and made anew, as the deployed client does it. A public address stays.
fn another_tunnel(places: Places) -> Result<()> {
    let mut scene = Scene::new("incident-tunnel", places)?;
    scene.connect(A)?;
    scene.until_up(A)?;

    disconnected(&scene)?;
    scene.ended_with_farewell(A)?;
    let old = scene.bed.here.ifindex(INTERFACE)?;
    let Bed { here, there, wire } = scene.bed;
    drop(wire);
    scene.bed = Bed::join(here, there)?;
    ensure!(scene.bed.here.ifindex(INTERFACE)? != old, "the same index");
    far_side(&scene.bed)?;
    scene.address("add", B)?;
    scene.peers_ask(B);
    // At once: nobody has to wait until the agent has seen the new interface.
    scene.connect(B)?;
    scene.until_up(B)?;
    scene.peers_asked_again(A, ASKED_AGAIN)?;

    let sent = scene.sent_from(A);
    ensure!(sent.is_empty(), "from A by the new tunnel: {sent:?}");
    scene.until_up(B)?;
    scene.nothing_failed()
}

/// Gives everything up; when the reply is here, nothing is left.
fn disconnected(scene: &Scene) -> Result<()> {
    scene.agent.cli(&["disconnect", "--all"])?;
    let entries = bed::entries(scene.agent.home())?;
    ensure!(entries.is_empty(), "after the reply: {entries:?}");
    let routes = scene.routes()?;
    ensure!(routes.is_empty(), "after the reply: {routes}");
    let wanted = scene.wanted()?;
    ensure!(wanted == 0, "after the reply: {wanted} peers");
    for (peer, address) in scene.peers.iter().zip(PEERS) {
        told(peer, address)?;
    }
    Ok(())
}

/// The peer went Down because it was told, not because it waited.
fn told(peer: &UdpPeer, address: Ipv4Addr) -> Result<()> {
    eventually(PATIENCE, &format!("{address} Down"), || {
        let session = peer.session(A).map(|found| found.session);
        let told = session.is_some_and(|session| {
            session.state == State::Down && session.down_reason == DownReason::RemoteAdmin
        });
        ensure!(told, "{session:?}");
        anyhow::Ok(())
    })
}
