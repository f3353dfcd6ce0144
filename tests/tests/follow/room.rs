//! More followed routes than there may be sessions.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_tests::bed::{HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{NEEDS, Scene};

const ROOM: usize = 20;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "room::comes_when_there_is_some",
        &NEEDS,
        comes_when_there_is_some,
    )]
}

fn peer(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a0a_0000 + i as u32)
}

fn comes_when_there_is_some() -> Result<()> {
    let mut scene = Scene::new("follow", &["--follow", "proto=bgp", "--max-sessions", "20"])?;
    let lines: String = (0..ROOM + 5)
        .map(|i| {
            format!(
                "route add {} dev {INTERFACE} proto bgp src {HERE}\n",
                peer(i)
            )
        })
        .collect();
    scene.batch(&lines)?;
    let until = |scene: &Scene, peers: usize, waiting: u64| {
        eventually(
            PATIENCE,
            &format!("{peers} peers, {waiting} waiting"),
            || {
                let (entries, wanted) = (scene.entries()?.len(), scene.wanted()?.len());
                ensure!(
                    entries == peers && wanted == peers,
                    "{wanted} peers, {entries} sessions"
                );
                let shown = scene.agent.get("/v1/sessions")?;
                let left = shown["passed_over"]["no_room"].as_u64().unwrap_or(0);
                ensure!(left == waiting, "{left} waiting");
                anyhow::Ok(())
            },
        )
    };
    until(&scene, ROOM, 5)?;
    scene.logged("no room")?;
    let warnings = |scene: &mut Scene| {
        let log = scene.agent.process().log();
        log.lines().filter(|line| line.contains("no room")).count()
    };
    ensure!(
        warnings(&mut scene) == 1,
        "{} warnings",
        warnings(&mut scene)
    );
    let (peer_20, here) = ("10.20.0.1", HERE.to_string());
    let said = scene.refused(&["connect", peer_20, "--local", &here])?;
    ensure!(said.contains("--max-sessions"), "{said}");
    // Three go, three of the others come.
    let followed: Vec<_> = scene.wanted()?.into_keys().collect();
    for gone in &followed[..3] {
        scene.route(&format!("delete {gone} proto bgp"))?;
    }
    until(&scene, ROOM, 2)?;
    // One that waits goes as silently as it came.
    let wanted = scene.wanted()?;
    let waiting = (0..ROOM + 5)
        .map(peer)
        .find(|peer| !wanted.contains_key(peer) && !followed[..3].contains(peer));
    let waiting = waiting.expect("two are waiting");
    scene.route(&format!("delete {waiting} proto bgp"))?;
    until(&scene, ROOM, 1)?;
    ensure!(scene.wanted()? == wanted, "others have noticed");
    scene.route("flush proto bgp")?;
    until(&scene, 0, 0)
}
