//! The same without a disconnect: A simply disappears. Its sessions are parked, shown with the
//! reason, and come back if A does.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{A, B, NEEDS, PEERS, Place, Places, Scene, far_side};

const ASKED_AGAIN: usize = 5;
/// A peer that is not connected from A.
const ANOTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);

pub(super) fn tests() -> Vec<Test> {
    let each = |(name, places): (&str, Places)| {
        let address = move || address_disappears(places);
        let tunnel = move || tunnel_disappears(places);
        [
            Test::new(format!("forgotten::address_{name}"), &NEEDS, address),
            Test::new(format!("forgotten::tunnel_{name}"), &NEEDS, tunnel),
        ]
    };
    Places::ALL.into_iter().flat_map(each).collect()
}

fn address_disappears(places: Places) -> Result<()> {
    let mut scene = Scene::new("forgotten", places)?;
    scene.connect(A)?;
    scene.until_up(A)?;

    scene.address("delete", A)?;
    all_parked(&scene, "is not an address of this host")?;
    let before = scene.sent_from(A).len();
    scene.address("add", B)?;
    refused_from_b(&scene)?;
    scene
        .agent
        .cli(&["connect", "--local", &B.to_string(), &ANOTHER.to_string()])?;
    scene.peers_asked_again(A, ASKED_AGAIN)?;
    let sent = scene.sent_from(A).len();
    ensure!(sent == before, "{} packets from A", sent - before);
    all_parked(&scene, "is not an address of this host")?;
    scene.agent.cli(&["disconnect", &ANOTHER.to_string()])?;

    scene.address("add", A)?;
    scene.until_up(A)?;
    scene.nothing_failed()
}

fn tunnel_disappears(places: Places) -> Result<()> {
    let mut scene = Scene::new("forgotten-tunnel", places)?;
    scene.connect(A)?;
    scene.until_up(A)?;

    let old = scene.bed.here.ifindex(INTERFACE)?;
    let Bed { here, there, wire } = scene.bed;
    drop(wire);
    // The namespaces are kept: without a bed there is nothing to look at yet.
    scene.bed = Bed::join(here, there)?;
    far_side(&scene.bed)?;
    scene.address("add", B)?;
    ensure!(scene.bed.here.ifindex(INTERFACE)? != old, "the same index");
    if scene.place(A) == Place::Nic {
        // A never went.
        scene.until_up(A)?;
        only_on(&scene)?;
        // What was meant to be sent while there was no tunnel is counted.
        let failures = scene.failures()?;
        scene.peers_asked_again(A, ASKED_AGAIN)?;
        return scene.nothing_failed_after(failures);
    }
    all_parked(&scene, "is not an address of this host")?;
    // What our clock meant to send in the moment before the agent knew is counted: no tunnel took it.
    let failures = scene.failures()?;
    refused_from_b(&scene)?;
    scene.peers_asked_again(A, ASKED_AGAIN)?;
    let sent = scene.sent_from(A);
    ensure!(sent.is_empty(), "from A by the new tunnel: {sent:?}");

    scene.address("add", A)?;
    scene.until_up(A)?;
    only_on(&scene)?;
    scene.nothing_failed_after(failures)
}

/// Every session is over the tunnel that there is now.
fn only_on(scene: &Scene) -> Result<()> {
    let ifindex = scene.bed.here.ifindex(INTERFACE)?;
    let entries = bed::entries(scene.agent.home())?;
    ensure!(
        entries.iter().all(|entry| entry.key.ifindex == ifindex),
        "{entries:?}"
    );
    Ok(())
}

/// Every peer is still wanted, none has a session or a route, and `sessions` says why.
fn all_parked(scene: &Scene, reason: &str) -> Result<()> {
    eventually(PATIENCE, "parked sessions", || {
        let entries = bed::entries(scene.agent.home())?;
        let left = entries.iter().filter(|entry| entry.key.local == A.octets());
        ensure!(left.count() == 0, "{entries:?}");
        let routes = scene.routes()?;
        ensure!(!routes.contains(&format!("src {A}")), "{routes}");
        let shown = scene.agent.json(&["sessions", "--json"])?;
        let parked = shown["parked"].as_array().context("nothing parked")?;
        ensure!(parked.len() == PEERS.len(), "{shown}");
        for peer in parked {
            let said = peer["reason"].as_str().context("no reason")?;
            ensure!(said.contains(reason), "{peer}");
            ensure!(peer["local"] == A.to_string(), "{peer}");
        }
        anyhow::Ok(())
    })?;
    let table = scene.agent.cli(&["sessions"])?;
    ensure!(
        table.contains("PARKED") && table.contains(reason),
        "{table}"
    );
    Ok(())
}

/// Parked peers are wanted from A: they cannot be connected from B as well.
fn refused_from_b(scene: &Scene) -> Result<()> {
    let refusal = eventually(PATIENCE, "a refusal for the right reason", || {
        let Err(refusal) = scene.connect(B) else {
            anyhow::bail!("connected from B, too");
        };
        let text = refusal.to_string();
        ensure!(text.contains("disconnect it first"), "{text}");
        anyhow::Ok(text)
    })?;
    ensure!(
        PEERS.iter().all(|peer| refusal.contains(&peer.to_string())),
        "{refusal}"
    );
    Ok(())
}
