//! Which addresses can be a local address, which one is taken, and which cannot be a peer.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::{Requirement, Test};
use dz_tests::tun::Kind;
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{GATEWAY, NEEDS, NICS, OTHER, PEER, PEERS, PUBLIC, ROUTERS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("choice::named", &NEEDS, named),
        Test::new("choice::unnamed", &NEEDS, unnamed),
        Test::new("choice::configured", &NEEDS, configured),
        Test::new("choice::held_anyhow", &NEEDS, held_anyhow),
        Test::new("choice::on_ethernet", &NEEDS, on_ethernet),
        Test::new(
            "choice::another_vrf",
            &[
                Requirement::Root,
                Requirement::Tun,
                Requirement::LinkKind("vrf"),
            ],
            another_vrf,
        ),
        Test::new("choice::no_peers", &NEEDS, no_peers),
    ]
}

/// Without a name: a GRE tunnel starts from an address of this host, a TUN device does not.
fn unnamed() -> Result<()> {
    match Kind::wanted()? {
        Kind::Gre => the_tunnels(),
        Kind::Tun => the_kernels(),
    }
}

/// The address that the tunnel starts from.
fn the_tunnels() -> Result<()> {
    let scene = Scene::new("plain-tunnel", &[])?;
    let shown = scene.ip(&format!("-d -o link show {INTERFACE}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "local");
    let outer: Ipv4Addr = words.nth(1).context("no outer address")?.parse()?;
    scene
        .bed
        .there
        .ip(&format!("route add {outer}/32 dev {INTERFACE}"))?;
    scene.peers[0].add_session(outer);
    scene.agent.cli(&["connect", &PEER.to_string()])?;
    scene.until_up(PEER, outer)?;
    scene.until_route(PEER, &format!("via {GATEWAY} dev {INTERFACE} src {outer}"))
}

/// Named, our public address is all that is needed; and its session ends with its farewell.
fn named() -> Result<()> {
    let mut scene = Scene::connected("plain")?;
    let route = format!("via {GATEWAY} dev {INTERFACE} src {PUBLIC}");
    scene.until_route(PEER, &route)?;
    ensure!(scene.locals()?.contains(&PUBLIC), "{:?}", scene.locals()?);
    let confined = scene.maps()?.confined()?;
    let public = confined.iter().any(|key| key.addr == PUBLIC.octets());
    ensure!(!public, "the NIC holds it, too: {confined:?}");
    let status = scene.agent.get("/v1/status")?;
    let borrowed = &status["interfaces"][0]["borrowed"];
    ensure!(
        *borrowed == serde_json::json!([PUBLIC.to_string()]),
        "{status}"
    );
    // The same again is no other peer.
    let (peer, public) = (PEER.to_string(), PUBLIC.to_string());
    scene.agent.cli(&[
        "connect",
        &peer,
        "--local",
        &public,
        "--via",
        &GATEWAY.to_string(),
    ])?;
    // Nor is it when the link has become another one since, unless a gateway is named.
    scene.ip(&format!("address delete {HERE}/31 dev {INTERFACE}"))?;
    scene.ip(&format!(
        "address add 169.254.8.0/31 dev {INTERFACE} scope link"
    ))?;
    scene.full_check()?;
    let again = ["connect", &peer, "--local", &public];
    scene.agent.cli(&again)?;
    let said = scene.refused(&[&again[..], &["--via", "169.254.8.1"]].concat())?;
    ensure!(said.contains("with other settings"), "{said}");

    scene.agent.cli(&["disconnect", &peer])?;
    let said = scene.said(PEER);
    let first = said
        .iter()
        .position(|(_, packet)| packet.state == State::AdminDown);
    let last = &said[first.unwrap_or(said.len())..];
    let farewells = |(from, packet): &(Ipv4Addr, dz_common::packet::Packet)| {
        *from == PUBLIC && packet.state == State::AdminDown
    };
    ensure!(last.len() == 3 && last.iter().all(farewells), "{last:?}");
    scene.full_check()?;
    ensure!(scene.said(PEER).len() == said.len(), "after the reply");
    ensure!(!scene.locals()?.contains(&PUBLIC), "nobody uses it");
    scene.nothing_failed()
}

/// The kernel is asked, and where it does not know, it is said what to type.
fn the_kernels() -> Result<()> {
    let scene = Scene::new("plain-kernel", &[])?;
    let [first, second] = PEERS.map(|peer| peer.to_string());
    let said = scene.refused(&["connect", &first])?;
    ensure!(said.contains("--local ADDRESS"), "{said}");
    scene.ip(&format!(
        "route add {second}/32 via {GATEWAY} dev {INTERFACE} src {PUBLIC} metric 50 proto 99"
    ))?;
    scene.agent.cli(&["connect", &second])?;
    scene.until_up(PEERS[1], PUBLIC)?;
    // One that the tunnel has of its own comes before, and needs no gateway.
    scene.ip(&format!("address add {OTHER}/32 dev {INTERFACE}"))?;
    scene.agent.cli(&["connect", &first])?;
    scene.until_up(PEER, OTHER)?;
    scene.until_route(PEER, &format!("dev {INTERFACE} scope link src {OTHER}"))?;
    scene.ip(&format!("address add 10.8.0.1/32 dev {INTERFACE}"))?;
    let said = scene.refused(&["connect", "203.0.113.9"])?;
    ensure!(said.contains("say which one"), "{said}");
    Ok(())
}

/// A line of the file need not name it either; the address that is meant may change.
fn configured() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("peers");
    let path = file.display().to_string();
    fs::write(&file, format!("{PEER}\n{GATEWAY} local {PUBLIC}\n"))?;
    let mut scene = Scene::new("plain-file", &["--peers", &path])?;
    if Kind::wanted()? == Kind::Tun {
        scene.until_parked(PEER, "has no address to speak from")?;
    }
    scene.until_parked(GATEWAY, "is the gateway, the far end of the link itself")?;
    scene.ip(&format!("address add {OTHER}/32 dev {INTERFACE}"))?;
    scene.until_up(PEER, OTHER)?;
    fs::write(&file, format!("{PEER} local {PUBLIC}\n"))?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    let before = scene.until_up(PEER, PUBLIC)?;
    scene.until_route(PEER, &format!("via {GATEWAY} dev {INTERFACE} src {PUBLIC}"))?;
    // The tunnel's link gets another /31: the route follows, the session goes on.
    scene.batch(&format!(
        "address add 169.254.9.0/31 dev {INTERFACE} scope link\n\
         address delete {HERE}/31 dev {INTERFACE}\n"
    ))?;
    scene.until_route(
        PEER,
        &format!("via 169.254.9.1 dev {INTERFACE} src {PUBLIC}"),
    )?;
    let after = scene.entry(PEER)?;
    ensure!(
        (after.generation, after.session.ups) == (before.generation, before.session.ups),
        "{after:?}"
    );
    Ok(())
}

/// On whatever interface, or on none: what the kernel takes for this host's own.
fn held_anyhow() -> Result<()> {
    let scene = Scene::new("plain-held", &[])?;
    let any = "203.0.113.64/28";
    for (local, add, delete) in [
        (
            Ipv4Addr::new(192, 0, 2, 10),
            format!("address add 192.0.2.10/24 dev {}", NICS[0]),
            format!("address delete 192.0.2.10/24 dev {}", NICS[0]),
        ),
        (
            Ipv4Addr::new(203, 0, 113, 1),
            "address add 203.0.113.1/32 dev lo".to_owned(),
            "address delete 203.0.113.1/32 dev lo".to_owned(),
        ),
        (
            Ipv4Addr::new(203, 0, 113, 65),
            format!("route add local {any} dev lo"),
            format!("route delete local {any} dev lo"),
        ),
    ] {
        let (peer, ours) = (PEER.to_string(), local.to_string());
        let words = ["connect", &peer, "--local", &ours];
        let said = scene.refused(&words)?;
        ensure!(said.contains("is not an address of this host"), "{said}");
        scene
            .bed
            .there
            .ip(&format!("route add {local}/32 dev {INTERFACE}"))?;
        scene.peers[0].add_session(local);
        scene.ip("link set lo up")?;
        scene.ip(&add)?;
        scene.agent.cli(&words)?;
        scene.until_up(PEER, local)?;
        scene.until_route(PEER, &format!("via {GATEWAY} dev {INTERFACE} src {local}"))?;
        scene.ip(&delete)?;
        scene.until_parked(PEER, &format!("{local} is not an address of this host"))?;
        scene.ip(&add)?;
        scene.until_up(PEER, local)?;
        scene.agent.cli(&["disconnect", &peer])?;
    }
    for loopback in ["127.0.0.1", "127.1.2.3"] {
        let words = ["connect", "203.0.113.9", "--local", loopback];
        let output = scene.agent.home().command(&words)?;
        ensure!(output.status.code() == Some(2), "{output:?}");
    }
    Ok(())
}

/// On Ethernet peers are neighbours: from an address of another interface, too, without a gateway.
fn on_ethernet() -> Result<()> {
    let scene = Scene::new("plain-ethernet", &[])?;
    let (nic, neighbour) = (NICS[1], ROUTERS[1]);
    let words = ["--interface", nic, "--metrics-listen=off"];
    let agent = Agent::start_in(Home::new()?, &scene.bed.here, &words)?;
    let public = format!("route replace {PUBLIC}/32 dev {nic}");
    scene.bed.there.ip(&public)?;
    let peer = scene.bed.peer_at(neighbour, Rules::Deployed, 300)?;
    peer.add_session(PUBLIC);
    let (theirs, ours) = (neighbour.to_string(), PUBLIC.to_string());
    agent.cli(&["connect", &theirs, "--local", &ours])?;
    bed::until(agent.home(), State::Up)?;
    scene.until_route(neighbour, &format!("dev {nic} scope link src {PUBLIC}"))
}

/// An address of a VRF is not this host's outside of it.
fn another_vrf() -> Result<()> {
    let scene = Scene::new("plain-vrf", &[])?;
    scene.ip("link add blue type vrf table 10")?;
    scene.ip("link set blue up")?;
    scene.ip(&format!("link set {} vrf blue", NICS[0]))?;
    let (peer, public) = (PEER.to_string(), PUBLIC.to_string());
    let words = ["connect", &peer, "--local", &public];
    let said = scene.refused(&words)?;
    ensure!(said.contains("another VRF"), "{said}");
    scene.ip(&format!("link set {} nomaster", NICS[0]))?;
    eventually(PATIENCE, "the NIC is outside again", || {
        scene.agent.cli(&words)
    })?;
    scene.until_up(PEER, PUBLIC)?;
    Ok(())
}

/// What cannot be a peer, and why.
fn no_peers() -> Result<()> {
    let scene = Scene::new("plain-peers", &[])?;
    scene.ip(&format!("address add 10.1.0.9/24 dev {INTERFACE}"))?;
    for (peer, local, reason) in [
        (GATEWAY, PUBLIC, "is the gateway, the far end of the link"),
        (
            PUBLIC,
            Ipv4Addr::new(10, 1, 0, 9),
            "is an address of this host",
        ),
        (
            Ipv4Addr::new(10, 1, 0, 9),
            PUBLIC,
            "is an address of this host",
        ),
        (
            Ipv4Addr::new(10, 1, 0, 0),
            PUBLIC,
            "network address of 10.1.0.0/24",
        ),
        (
            Ipv4Addr::new(10, 1, 0, 255),
            PUBLIC,
            "broadcast address of 10.1.0.0/24",
        ),
        (
            Ipv4Addr::new(192, 0, 2, 255),
            PUBLIC,
            "is the broadcast address of another interface's subnet",
        ),
    ] {
        let words = ["connect", &peer.to_string(), "--local", &local.to_string()];
        let said = scene.refused(&words)?;
        let line = format!("peer {peer}: ");
        ensure!(said.contains(&line) && said.contains(reason), "{said}");
    }
    for via in [HERE, Ipv4Addr::new(192, 0, 2, 255)] {
        let (peer, public, via) = (PEER.to_string(), PUBLIC.to_string(), via.to_string());
        let said = scene.refused(&["connect", &peer, "--local", &public, "--via", &via])?;
        ensure!(said.contains(&format!("gateway {via} is a")), "{said}");
    }
    for peer in [
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.9",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        let words = ["connect", peer, "--local", &PUBLIC.to_string()];
        let output = scene.agent.home().command(&words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        ensure!(
            code == Some(2) && said.contains("not the address of a host"),
            "{said}"
        );
    }
    Ok(())
}
