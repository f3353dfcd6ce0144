//! Which of several routes counts, from which tables, and what is not followed at all.

use anyhow::{Context, Result, ensure};
use dz_tests::bed::{HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{ALLOCATED, NEEDS, PEERS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("choice::metric_then_table", &NEEDS, metric_then_table),
        Test::new("choice::same_route_again", &NEEDS, same_route_again),
        Test::new("choice::kernels_source", &NEEDS, kernels_source),
        Test::new("choice::not_followed", &NEEDS, not_followed),
    ]
}

fn metric_then_table() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp", "--follow", "table=7"])?;
    let [peer, ..] = PEERS;
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto bgp src {HERE} metric 20"
    ))?;
    scene.until_up(&[(peer, HERE)])?;
    let first = scene.sessions()?;
    scene.until_shown("bgp metric 20")?;
    // Worse ones change nothing, wherever they are.
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto bgp src {ALLOCATED} metric 30"
    ))?;
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto bird src {ALLOCATED} metric 40 table 7"
    ))?;
    scene.settled()?;
    ensure!(
        scene.sessions()? == first,
        "{first:?}, then {:?}",
        scene.sessions()?
    );
    // A better one, and with the same metric the lower table.
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto bgp src {ALLOCATED} metric 5"
    ))?;
    scene.until_up(&[(peer, ALLOCATED)])?;
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto static src {HERE} metric 5 table 7"
    ))?;
    scene.until_up(&[(peer, HERE)])?;
    scene.until_shown("static table 7 metric 5")?;
    scene.route(&format!("delete {peer} proto static metric 5 table 7"))?;
    scene.until_up(&[(peer, ALLOCATED)])?;
    // Another source of the same place was appended: the first counts.
    let before = scene.sessions()?;
    scene.route(&format!(
        "append {peer} dev {INTERFACE} proto bgp src {HERE} metric 5"
    ))?;
    scene.settled()?;
    ensure!(
        scene.sessions()? == before,
        "{before:?}, then {:?}",
        scene.sessions()?
    );
    scene.full_check()?;
    ensure!(
        scene.sessions()? == before,
        "{before:?}, then {:?}",
        scene.sessions()?
    );
    scene.route(&format!("delete {peer} proto bgp src {ALLOCATED} metric 5"))?;
    scene.until_up(&[(peer, HERE)])?;
    for metric in [5, 20, 30] {
        scene.route(&format!("delete {peer} proto bgp metric {metric}"))?;
    }
    scene.until_up(&[(peer, ALLOCATED)])?; // that of table 7 is left
    scene.route("flush table 7")?;
    scene.until_up(&[])
}

/// Deleted and added, or replaced, with the same source and gateway: nobody notices.
fn same_route_again() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [first, second, _] = PEERS;
    for peer in [first, second] {
        scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    }
    scene.until_up(&[(first, HERE), (second, HERE)])?;
    let before = scene.sessions()?;
    let mut lines = String::new();
    for _ in 0..100 {
        lines += &format!("route delete {first} dev {INTERFACE} proto bgp\n");
        lines += &format!("route add {first} dev {INTERFACE} proto bgp src {HERE}\n");
        lines += &format!("route replace {second} dev {INTERFACE} proto bgp src {HERE} mtu 1400\n");
        lines += &format!("route replace {second} dev {INTERFACE} proto bgp src {HERE}\n");
    }
    // While the agent looks the other way: what it reads afterwards is one batch.
    let mut scene = scene.frozen(|scene| scene.batch(&lines))?;
    scene.settled()?;
    scene.full_check()?;
    ensure!(
        scene.sessions()? == before,
        "{before:?}, then {:?}",
        scene.sessions()?
    );
    let log = scene.agent.process().log();
    let given_up = |line: &&str| line.contains("disconnected") && line.contains("peer=10.9.");
    ensure!(log.lines().filter(given_up).count() == 0, "{log}");
    Ok(())
}

/// The local address is the one that the kernel itself puts into packets.
fn kernels_source() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [first, second, third] = PEERS;
    let here = &scene.bed.here;
    here.ip(&format!("address add 10.77.0.1/24 dev {INTERFACE}"))?;
    here.ip(&format!("address add 10.77.0.2/24 dev {INTERFACE}"))?;
    here.ip(&format!("address add 10.78.0.1/24 dev {INTERFACE}"))?;
    scene.route(&format!("add {first} dev {INTERFACE} proto bgp"))?;
    scene.route(&format!(
        "add {second} via 10.78.0.9 dev {INTERFACE} proto bgp"
    ))?;
    scene.route(&format!(
        "add {third} via 10.99.0.9 dev {INTERFACE} proto bgp onlink"
    ))?;
    scene.until_followed(&PEERS)?;
    for (peer, wanted) in scene.wanted()? {
        let shown = scene.route(&format!("get {peer}"))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "src");
        let kernels = words.nth(1).context("no source")?;
        ensure!(
            kernels.parse() == Ok(std::net::Ipv4Addr::from(wanted.local)),
            "{shown}: {wanted:?}"
        );
    }
    Ok(())
}

fn not_followed() -> Result<()> {
    let scene = Scene::new(
        "follow",
        &["--follow", "proto=bgp", "--follow", "table=main"],
    )?;
    let [first, second, third] = PEERS;
    for route in [
        format!("add blackhole {first} proto bgp"),
        format!(
            "add {second} proto bgp nexthop via 169.254.7.1 dev {INTERFACE} nexthop dev {INTERFACE}"
        ),
        format!("add {third} dev {INTERFACE} proto bgp tos 0x10"),
        format!("add 10.9.1.0/31 dev {INTERFACE} proto bgp"),
        "add 10.9.2.1 dev lo proto bgp".to_owned(),
        format!("add 224.0.0.5 dev {INTERFACE} proto bgp"),
        format!("add 10.9.2.2 dev {INTERFACE} proto kernel"),
    ] {
        scene.route(&route)?;
    }
    let before = scene.table()?;
    // The one that is, for what comes before it to be over.
    scene.route(&format!("add 10.9.3.1 dev {INTERFACE} proto bgp"))?;
    scene.until_followed(&[[10, 9, 3, 1].into()])?;
    scene.full_check()?;
    scene.until_followed(&[[10, 9, 3, 1].into()])?;
    scene.route("delete 10.9.3.1 proto bgp")?;
    scene.until_followed(&[])?;
    ensure!(scene.table()? == before, "routes have changed");
    // A followed route whose place something else takes is over, too.
    scene.route(&format!("add {first} dev {INTERFACE} proto bgp metric 9"))?;
    scene.until_followed(&[first])?;
    scene.route(&format!("replace blackhole {first} proto static metric 9"))?;
    eventually(PATIENCE, "no peer", || {
        let wanted = scene.wanted()?;
        ensure!(wanted.is_empty(), "{wanted:?}");
        anyhow::Ok(())
    })
}
