//! Routes appear, change and disappear.

use anyhow::{Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bed::{HERE, INTERFACE};
use dz_tests::harness::Test;
use nix::sys::signal::Signal;

use crate::scene::{ALLOCATED, NEEDS, PEERS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("appear::change_and_disappear", &NEEDS, change),
        Test::new("appear::agents_come_and_go", &NEEDS, agents),
    ]
}

fn change() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [first, second, third] = PEERS;
    scene.route(&format!("add {first} dev {INTERFACE} proto bgp src {HERE}"))?;
    scene.route(&format!(
        "add {second} dev {INTERFACE} proto bgp src {ALLOCATED} metric 30"
    ))?;
    // Of somebody else, and not a host route.
    scene.route(&format!("add {third} dev {INTERFACE} proto static"))?;
    scene.route(&format!("add 10.9.1.0/24 dev {INTERFACE} proto bgp"))?;
    let before = scene.table()?;
    scene.until_up(&[(first, HERE), (second, ALLOCATED)])?;
    scene.until_followed(&[first, second])?;
    ensure!(scene.table()? == before, "routes have changed");

    // The same again, from another address: the session is another one.
    scene.route(&format!(
        "replace {first} dev {INTERFACE} proto bgp src {ALLOCATED}"
    ))?;
    scene.until_up(&[(first, ALLOCATED), (second, ALLOCATED)])?;
    // By another daemon that is not followed.
    scene.route(&format!(
        "replace {second} dev {INTERFACE} proto bird metric 30"
    ))?;
    scene.until_up(&[(first, ALLOCATED)])?;
    scene.route(&format!("delete {first} dev {INTERFACE} proto bgp"))?;
    scene.until_up(&[])?;
    Ok(())
}

/// A start that follows takes the sessions over, one that does not gives them up; nobody touches the
/// routes.
fn agents() -> Result<()> {
    const FOLLOW: [&str; 2] = ["--follow", "proto=186"];
    let mut scene = Scene::new("follow", &FOLLOW)?;
    let [first, second, _] = PEERS;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    let both = [(first, HERE), (second, HERE)];
    scene.until_up(&both)?;
    let (routes, before) = (scene.table()?, scene.sessions()?);
    for how in [Agent::crash, |agent: Agent| agent.end(Signal::SIGUSR2)] {
        scene = scene.again(how, &FOLLOW)?;
        // The start has compared everything before it answers.
        ensure!(
            scene.sessions()? == before,
            "{before:?}, then {:?}",
            scene.sessions()?
        );
    }
    scene = scene.again(Agent::crash, &["--follow", "proto=bird"])?;
    scene.until_up(&[])?;
    scene.until_followed(&[])?;
    scene = scene.again(Agent::crash, &FOLLOW)?;
    scene.until_up(&both)?;
    ensure!(scene.table()? == routes, "routes have changed");
    // Nor does purge touch them.
    scene = scene.purged(&FOLLOW)?;
    scene.until_up(&both)?;
    ensure!(scene.table()? == routes, "routes have changed");
    // SIGTERM gives everything up, but what is not ours.
    let home = scene.agent.end(Signal::SIGTERM)?;
    let table = scene.bed.here.ip("-d route show table all")?;
    ensure!(table == routes, "routes have changed");
    ensure!(!home.pin_dir().join("dz_peers").exists(), "a pin is left");
    Ok(())
}
