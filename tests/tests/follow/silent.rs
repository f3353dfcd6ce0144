//! Routes that vanish without a word, and notifications that get lost.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_tests::bed::{Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{ALLOCATED, NEEDS, PEERS, Scene};

/// More notifications than the socket's buffer holds.
const CHANGES: u32 = 60_000;
/// Far more than are read again at once.
const DUMPS: u32 = 100_000;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("silent::address_removed", &NEEDS, address_removed),
        Test::new("silent::interface_down", &NEEDS, interface_down),
        Test::new("silent::interface_anew", &NEEDS, interface_anew),
        Test::new("silent::overrun", &NEEDS, overrun),
        Test::new("silent::dump_fails", &NEEDS, dump_fails),
    ]
}

fn address_removed() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [first, second, _] = PEERS;
    scene.route(&format!("add {first} dev {INTERFACE} proto bgp src {HERE}"))?;
    scene.route(&format!(
        "add {second} dev {INTERFACE} proto bgp src {ALLOCATED}"
    ))?;
    scene.until_up(&[(first, HERE), (second, ALLOCATED)])?;
    let before = scene.sessions()?;
    let address = format!("{ALLOCATED}/32 dev {INTERFACE}");
    scene.bed.here.ip(&format!("address delete {address}"))?;
    ensure!(
        scene.route(&format!("show {second}"))?.is_empty(),
        "the kernel has flushed it"
    );
    scene.until_up(&[(first, HERE)])?;
    scene.until_followed(&[first])?;
    scene.bed.here.ip(&format!("address add {address}"))?;
    scene.route(&format!(
        "add {second} dev {INTERFACE} proto bgp src {ALLOCATED}"
    ))?;
    scene.until_up(&[(first, HERE), (second, ALLOCATED)])?;
    ensure!(
        scene.sessions()?.get(&first) == before.get(&first),
        "the other one has noticed"
    );
    Ok(())
}

fn interface_down() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    for peer in PEERS {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&PEERS.map(|peer| (peer, HERE)))?;
    scene.bed.here.ip(&format!("link set {INTERFACE} down"))?;
    scene.until_followed(&[])?;
    scene.until_up(&[])?;
    scene.bed.here.ip(&format!("link set {INTERFACE} up"))?;
    let [first, ..] = PEERS;
    scene.route(&format!("add {first} dev {INTERFACE} proto bgp src {HERE}"))?;
    scene.until_up(&[(first, HERE)])
}

/// Deleted and created anew, under another index: the peers are those of the routes that come with it.
fn interface_anew() -> Result<()> {
    let mut scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [first, second, _] = PEERS;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&[(first, HERE), (second, HERE)])?;
    scene = scene.interface_anew()?;
    scene.until_followed(&[])?;
    scene.route(&format!(
        "add {second} dev {INTERFACE} proto bgp src {HERE}"
    ))?;
    scene.until_up(&[(second, HERE)])?;
    scene.until_followed(&[second])
}

/// The agent is frozen while so much changes that it is not told of all of it.
fn overrun() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [first, second, third] = PEERS;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&[(first, HERE), (second, HERE)])?;
    let before = scene.sessions()?;
    let mut lines = String::new();
    for i in 0..CHANGES {
        lines += &format!("route add {} dev lo\n", Ipv4Addr::from(0xac10_0000 + i));
    }
    // Of these nobody will be told.
    lines += &format!("route delete {second} dev {INTERFACE} proto bgp\n");
    lines += &format!("route add {third} dev {INTERFACE} proto bgp src {ALLOCATED}\n");
    let scene = scene.frozen(|scene| scene.batch(&lines))?;
    scene.until_up(&[(first, HERE), (third, ALLOCATED)])?;
    ensure!(
        scene.sessions()?.get(&first) == before.get(&first),
        "the first one has noticed"
    );
    let counters = scene.agent.get("/v1/counters")?;
    let overruns = counters["agent"]["notification_overruns"].as_u64();
    ensure!(overruns.context("not counted")? > 0, "{counters}");
    Ok(())
}

/// A table that cannot be read is not an empty one.
fn dump_fails() -> Result<()> {
    let follow = ["--follow", "proto=bgp"];
    let scene = Scene::with_faults("follow", &follow)?;
    let [first, second, third] = PEERS;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&[(first, HERE), (second, HERE)])?;
    let before = scene.sessions()?;
    scene.agent.home().faults()?.interrupt_dumps(DUMPS)?;
    scene
        .bed
        .here
        .ip(&format!("link set {INTERFACE} mtu 1400"))?;
    let failing = |scene: &Scene| {
        eventually(PATIENCE, "checks that fail", || {
            let counters = scene.agent.get("/v1/counters")?;
            let failed = counters["agent"]["checks_failed"].as_u64();
            ensure!(failed >= Some(3), "{counters}");
            anyhow::Ok(())
        })
    };
    failing(&scene)?;
    // What changes meanwhile waits; nothing is given up.
    scene.route(&format!("add {third} dev {INTERFACE} proto bgp src {HERE}"))?;
    scene.route(&format!("delete {second} dev {INTERFACE} proto bgp"))?;
    ensure!(
        scene.sessions()? == before,
        "{before:?}, then {:?}",
        scene.sessions()?
    );
    scene.agent.home().faults()?.clear()?;
    scene.until_up(&[(first, HERE), (third, HERE)])?;
    ensure!(
        scene.sessions()?.get(&first) == before.get(&first),
        "the first one has noticed"
    );
    Ok(())
}

impl Scene {
    /// The interface goes, with everything on it, and comes back under a new index.
    fn interface_anew(self) -> Result<Self> {
        let Self { bed, agent, peers } = self;
        drop(peers);
        let Bed { here, there, wire } = bed;
        drop(wire);
        Self::join(Bed::join(here, there)?, agent)
    }
}
