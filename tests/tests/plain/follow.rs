//! Routes as they are deployed: `PEER/32 via GATEWAY dev doublezero0 src PUBLIC`.

use anyhow::{Result, ensure};
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::NEEDS;
use crate::scene::{GATEWAY, NICS, OTHER, PEER, PEERS, PUBLIC, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "follow::deployed_routes",
        &NEEDS,
        deployed_routes,
    )]
}

fn deployed_routes() -> Result<()> {
    let scene = Scene::new("plain-follow", &["--follow", "proto=bgp"])?;
    let route = |verb: &str, dst, source| {
        let way = format!("{dst}/32 via {GATEWAY} dev {INTERFACE} src {source} proto bgp");
        scene.ip(&format!("route {verb} {way}")).map(|_| ())
    };
    scene.ip(&format!("address add {OTHER}/24 dev {}", NICS[0]))?;
    for peer in PEERS {
        route("add", peer, PUBLIC)?;
        scene.until_up(peer, PUBLIC)?;
    }
    // The same again, and another source.
    let before = scene.entry(PEER)?;
    route("replace", PEER, PUBLIC)?;
    scene.full_check()?;
    ensure!(scene.entry(PEER)?.generation == before.generation);
    route("replace", PEER, OTHER)?;
    scene.until_up(PEER, OTHER)?;
    ensure!(scene.locals()?.contains(&PUBLIC), "the other peer's");
    // The gateway is no peer.
    scene.ip(&format!(
        "route add {GATEWAY}/32 dev {INTERFACE} src {PUBLIC} proto bgp"
    ))?;
    route("delete", PEER, OTHER)?;
    eventually(PATIENCE, "one peer left", || {
        let peers = scene.maps()?.peers()?;
        let left: Vec<_> = peers.iter().map(|(key, _)| key.peer).collect();
        ensure!(left == [PEERS[1].octets()], "{left:?}");
        anyhow::Ok(())
    })?;
    scene.full_check()?;
    ensure!(scene.entry(GATEWAY).is_err(), "the gateway is followed");
    // With its source the kernel takes the route away, and says nothing.
    scene.ip(&format!("address delete {PUBLIC}/24 dev {}", NICS[0]))?;
    eventually(PATIENCE, "no peer left", || {
        let peers = scene.maps()?.peers()?;
        ensure!(peers.is_empty(), "{peers:?}");
        anyhow::Ok(())
    })?;
    let theirs = scene.ip("route show proto bgp")?;
    ensure!(!theirs.contains(&PEERS[1].to_string()), "{theirs}");
    Ok(())
}
