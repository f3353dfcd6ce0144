//! The peer dies: what this host sends it from its public address leaves by the NIC, which is where
//! that address belongs.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Test;
use dz_tests::raw::RawSocket;
use dz_tests::receive::Receive;
use dz_tests::wait::eventually;
use etherparse::EtherType;

use crate::scene::{NEEDS, NICS, PEER, PUBLIC, ROUTERS, SECOND, Scene};

/// Where data goes.
const DATA: u16 = 9_000;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("around::by_the_nic", &NEEDS, by_the_nic),
        Test::new("around::holder_first", &NEEDS, holder_first),
        Test::new("around::reverse_path", &NEEDS, reverse_path),
        Test::new("around::by_the_rule_of_its_source", &NEEDS, by_rule),
    ]
}

/// Waits until the way around is by this interface, 0 = there is none.
fn until_detour(scene: &Scene, ifindex: u32) -> Result<()> {
    eventually(PATIENCE, &format!("the way around: {ifindex}"), || {
        let entry = scene.entry(PEER)?;
        ensure!(entry.detour == ifindex, "{}", entry.detour);
        anyhow::Ok(())
    })
}

fn by_the_nic() -> Result<()> {
    let mut scene = Scene::connected("plain-around")?;
    let nic = scene.bed.here.ifindex(NICS[0])?;
    scene.ip(&format!("route add default via {}", ROUTERS[0]))?;
    until_detour(&scene, nic)?;
    // A route into the tunnel that no withdrawal of ours takes away: only the gate keeps packets out.
    scene.ip(&format!(
        "route add {PEER}/32 dev {INTERFACE} proto 99 metric 50"
    ))?;
    let capture = RawSocket::open_for(&scene.bed.there, NICS[0], EtherType::IPV4)?;
    let socket = scene.bed.here.run(|| UdpSocket::bind((PUBLIC, 0)))?;
    let dead = scene.peers.remove(0);
    let _ = dead.stop();
    eventually(PATIENCE, "the peer's session Down", || {
        let state = scene.entry(PEER)?.session.state;
        ensure!(state == State::Down, "{state:?}");
        anyhow::Ok(())
    })?;
    socket.send_to(b"after", (PEER, DATA))?;
    eventually(PATIENCE, "the packet on the NIC", || {
        while let Some(frame) = capture.try_recv()? {
            let packet = frame.get(14..).context("no Ethernet header")?;
            let udp = parse_udp(packet).filter(|udp| udp.dst.port() == DATA);
            if let Some(udp) = udp {
                ensure!(*udp.src.ip() == PUBLIC && *udp.dst.ip() == PEER);
                return Ok(());
            }
        }
        anyhow::bail!("not there")
    })
}

/// Strict reverse path filtering drops what peers divert to us: `status` says so.
fn reverse_path() -> Result<()> {
    let scene = Scene::connected("plain-rpfilter")?;
    scene.ip(&format!("route add default via {}", ROUTERS[0]))?;
    until_detour(&scene, scene.bed.here.ifindex(NICS[0])?)?;
    let set = |name: &str, mode: u8| {
        let line = format!("sysctl -qw net.ipv4.conf.{name}.rp_filter={mode}");
        scene.bed.here.command(&line)
    };
    for (all, nic, warned) in [(0, 0, false), (1, 0, true), (0, 1, true), (1, 2, false)] {
        set("all", all)?;
        set(NICS[0], nic)?;
        let shown = scene.agent.cli(&["status"])?;
        let said = shown.contains("warning: nic0: what peers divert to us");
        ensure!(said == warned, "all {all}, nic0 {nic}: {shown}");
        ensure!(!shown.contains("nic1"), "nothing goes by it: {shown}");
    }
    Ok(())
}

/// The interface that holds the source comes before one with a better metric, and moves with it.
fn holder_first() -> Result<()> {
    let scene = Scene::connected("plain-holder")?;
    let [first, second] = NICS;
    scene.ip(&format!("route add default via {} metric 100", ROUTERS[0]))?;
    scene.ip(&format!(
        "route add {PEER}/32 via {} dev {second} metric 5",
        ROUTERS[1]
    ))?;
    until_detour(&scene, scene.bed.here.ifindex(first)?)?;
    // Without a route there, by the other.
    scene.ip(&format!("route delete default via {}", ROUTERS[0]))?;
    until_detour(&scene, scene.bed.here.ifindex(second)?)?;
    scene.ip(&format!("route add default via {} metric 100", ROUTERS[0]))?;
    until_detour(&scene, scene.bed.here.ifindex(first)?)?;
    scene.batch(&format!(
        "address add {PUBLIC}/32 dev {second}\naddress delete {PUBLIC}/24 dev {first}\n"
    ))?;
    until_detour(&scene, scene.bed.here.ifindex(second)?)
}

/// The route is that of a table which only packets from the address are looked up in.
fn by_rule() -> Result<()> {
    let scene = Scene::connected("plain-rule")?;
    until_detour(&scene, 0)?;
    let [first, _] = NICS;
    scene.ip(&format!(
        "route add default via {} dev {first} table 100",
        ROUTERS[0]
    ))?;
    scene.ip(&format!("rule add from {SECOND} lookup 100"))?;
    scene.full_check()?;
    until_detour(&scene, 0)?;
    scene.ip(&format!("rule add from {PUBLIC} lookup 100"))?;
    until_detour(&scene, scene.bed.here.ifindex(first)?)
}
