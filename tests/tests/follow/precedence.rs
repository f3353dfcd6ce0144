//! The same peer wanted by the file, by a request and by a route; and the way of its traffic.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_common::map::Origin;
use dz_common::packet::State;
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::tun::Tun;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{ALLOCATED, NEEDS, PEERS, Scene};

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("precedence::request_and_route", &NEEDS, request_and_route),
        Test::new("precedence::file_and_route", &NEEDS, file_and_route),
        Test::new("precedence::gate_reroutes", &NEEDS, gate_reroutes),
    ]
}

fn origin(scene: &Scene, peer: Ipv4Addr) -> Result<Origin> {
    let wanted = scene.wanted()?;
    Ok(wanted.get(&peer).context("no peer")?.origin)
}

fn until_origin(scene: &Scene, peer: Ipv4Addr, wanted: Origin) -> Result<()> {
    eventually(PATIENCE, &format!("{wanted:?}"), || {
        let found = origin(scene, peer)?;
        ensure!(found == wanted, "{found:?}");
        anyhow::Ok(())
    })
}

fn request_and_route() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [peer, ..] = PEERS;
    let (address, here) = (peer.to_string(), HERE.to_string());
    let connect = ["connect", &address, "--local", &here];
    scene.agent.cli(&connect)?;
    scene.until_up(&[(peer, HERE)])?;
    bed::until_route(&scene.bed.here, peer, true)?;
    let before = scene.sessions()?;
    // A route to a peer that somebody has asked for changes nothing.
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto bgp src {ALLOCATED} metric 9"
    ))?;
    scene.settled()?;
    ensure!(scene.sessions()? == before && origin(&scene, peer)? == Origin::Api);
    // Disconnected, it is followed, and our route is gone; then neither is a request's business.
    scene.agent.cli(&["disconnect", &address])?;
    scene.until_up(&[(peer, ALLOCATED)])?;
    scene.until_followed(&[peer])?;
    bed::until_route(&scene.bed.here, peer, false)?;
    for words in [&connect[..], &["disconnect", &address]] {
        let said = scene.refused(words)?;
        ensure!(
            said.contains("followed") && said.contains("--exclude"),
            "{said}"
        );
    }
    scene.agent.cli(&["disconnect", "--all"])?;
    scene.until_up(&[(peer, ALLOCATED)])?;
    let shown = scene.agent.json(&["sessions", "--json"])?;
    let row = &shown["sessions"][0];
    ensure!(
        row["origin"] == "follow" && row["route"]["state"] == "followed",
        "{shown}"
    );
    ensure!(
        row["route"]["name"] == "bgp" && row["route"]["metric"] == 9,
        "{shown}"
    );
    // A route of our number beside it, whoever made it, goes.
    scene.route(&format!("add {peer} dev {INTERFACE} proto 144"))?;
    bed::until_route(&scene.bed.here, peer, false)?;
    scene.route(&format!("delete {peer} proto bgp metric 9"))?;
    scene.until_up(&[])
}

fn file_and_route() -> Result<()> {
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let [peer, ..] = PEERS;
    fs::write(&file, "")?;
    let path = file.to_str().context("UTF-8")?;
    let mut scene = Scene::new("follow", &["--follow", "proto=bgp", "--peers", path])?;
    scene.route(&format!(
        "add {peer} dev {INTERFACE} proto bgp src {HERE} metric 9"
    ))?;
    scene.until_up(&[(peer, HERE)])?;
    let before = scene.sessions()?;
    // With the same settings only who wants it is another one: the session goes on, our route comes.
    fs::write(&file, format!("{peer} local {HERE}\n"))?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    until_origin(&scene, peer, Origin::Config)?;
    bed::until_route(&scene.bed.here, peer, true)?;
    ensure!(scene.sessions()? == before, "another session");
    fs::write(&file, "")?;
    scene.agent.cli(&["reload", "--force"])?;
    until_origin(&scene, peer, Origin::Follow)?;
    bed::until_route(&scene.bed.here, peer, false)?;
    ensure!(scene.sessions()? == before, "another session");
    // With others it is another session.
    fs::write(&file, format!("{peer} local {ALLOCATED} detect-mult 31\n"))?;
    scene.agent.process().signal(Signal::SIGHUP)?;
    scene.until_up(&[(peer, ALLOCATED)])?;
    until_origin(&scene, peer, Origin::Config)?;
    scene.route(&format!("delete {peer} proto bgp metric 9"))?;
    scene.settled()?;
    until_origin(&scene, peer, Origin::Config)?;
    fs::write(&file, "")?;
    scene.agent.cli(&["reload", "--force"])?;
    scene.until_up(&[])
}

/// The peer falls silent, its route stays: packets leave by the other interface.
fn gate_reroutes() -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [peer, ..] = PEERS;
    let around = Tun::new(&scene.bed.here, "under0", &["192.0.2.1/24"])?;
    scene.route("add default dev under0")?;
    scene.route(&format!("add {peer} dev {INTERFACE} proto bgp src {HERE}"))?;
    let routes = scene.table()?;
    scene.until_up(&[(peer, HERE)])?;
    scene.peer(peer)?.admin_down(HERE);
    eventually(PATIENCE, "the session Down", || {
        let entries = scene.entries()?;
        ensure!(entries[0].session.state == State::Down, "{entries:?}");
        anyhow::Ok(())
    })?;
    eventually(PATIENCE, "packets on the other interface", || {
        let from = "192.0.2.1";
        scene.bed.here.run(|| {
            let socket = std::net::UdpSocket::bind((from, 0))?;
            socket.send_to(b"around", (peer, 9))
        })?;
        let shown = scene.agent.cli(&["counters"])?;
        ensure!(shown.contains("gate_rerouted"), "{shown}");
        anyhow::Ok(())
    })?;
    ensure!(scene.table()? == routes, "routes have changed");
    scene.peer(peer)?.admin_up(HERE);
    scene.until_up(&[(peer, HERE)])?;
    drop(around);
    Ok(())
}
