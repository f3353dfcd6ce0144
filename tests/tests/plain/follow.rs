//! Routes as they are deployed: `PEER/32 via GATEWAY dev doublezero0 src PUBLIC`.

use anyhow::{Result, ensure};
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{GATEWAY, NEEDS, NICS, OTHER, PEER, PEERS, PUBLIC, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("follow::deployed_routes", &NEEDS, deployed_routes),
        Test::new("follow::every_shape", &NEEDS, every_shape),
    ]
}

/// The shapes that the deployed client and BGP daemons give their routes, each without its destination.
fn shapes() -> [String; 4] {
    let ours = format!("dev {INTERFACE} src {PUBLIC} proto bgp");
    [
        format!("via {GATEWAY} {ours}"),
        format!("{ours} scope link"),
        format!("{ours} scope global"),
        format!("via {GATEWAY} {ours} onlink"),
    ]
}

/// Sessions come Up without a connect, whatever the shape, and go with their route. One that is put in
/// the place of another, in one call or in two, changes nothing where the source is the same: over
/// layer 3 a packet has no next hop.
fn every_shape() -> Result<()> {
    let mut scene = Scene::new("plain-shapes", &["--follow", "proto=bgp"])?;
    for shape in shapes() {
        scene.ip(&format!("route add {PEER}/32 {shape}"))?;
        let before = scene.until_up(PEER, PUBLIC)?;
        scene.batch(&format!("route replace {PEER}/32 {shape}\n").repeat(10))?;
        // In two calls: what comes together is looked at together, and whoever stands still meanwhile
        // reads it together, however busy the machine is.
        scene.agent.process().freeze()?;
        let twice = format!("route delete {PEER}/32\nroute add {PEER}/32 {shape}\n");
        let changed = scene.batch(&twice.repeat(10));
        scene.agent.process().signal(Signal::SIGCONT)?;
        changed?;
        scene.full_check()?;
        let after = scene.entry(PEER)?;
        ensure!(
            (after.generation, after.session.ups) == (before.generation, before.session.ups),
            "{shape}: {after:?}"
        );
        let ours = scene.ip("route show proto 144")?;
        ensure!(ours.is_empty(), "beside {shape}: {ours}");
        scene.ip(&format!("route delete {PEER}/32"))?;
        until_no_peer(&scene)?;
    }
    let [first, ..] = shapes();
    scene.ip(&format!("route add {PEER}/32 {first}"))?;
    let before = scene.until_up(PEER, PUBLIC)?;
    for shape in shapes().iter().cycle().take(9) {
        scene.ip(&format!("route replace {PEER}/32 {shape}"))?;
        scene.full_check()?;
        let after = scene.entry(PEER)?;
        ensure!(
            (after.generation, after.session.ups) == (before.generation, before.session.ups),
            "{shape}: {after:?}"
        );
        let (_, peer) = scene.maps()?.peers()?.remove(0);
        let via = if shape.starts_with("via") {
            GATEWAY.octets()
        } else {
            [0; 4]
        };
        ensure!(peer.via == via, "{shape}: {peer:?}");
    }
    scene.ip(&format!("route delete {PEER}/32"))?;
    until_no_peer(&scene)?;
    scene.only_from_held()?;
    scene.nothing_failed()
}

fn until_no_peer(scene: &Scene) -> Result<()> {
    eventually(PATIENCE, "neither peer nor session left", || {
        let (peers, sessions) = (scene.maps()?.peers()?, scene.maps()?.sessions()?);
        ensure!(
            peers.is_empty() && sessions.is_empty(),
            "{peers:?} {sessions:?}"
        );
        anyhow::Ok(())
    })
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
    until_no_peer(&scene)?;
    let theirs = scene.ip("route show proto bgp")?;
    ensure!(!theirs.contains(&PEERS[1].to_string()), "{theirs}");
    Ok(())
}
