//! Packets that are larger than the way around takes: counted, and their source is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::Counter;
use dz_tests::agent::Agent;
use dz_tests::bed::{INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{
    DATA, Hosts, Kind, NEEDS, UNDER, UNDER_HERE, connect, count, maps, until_detour,
};

/// Of the way around; the tunnel takes 1,500 bytes.
const MTU: usize = 1_000;
/// A datagram that the tunnel takes.
const LARGE: [u8; 1_200] = [0; 1_200];
/// What a connection carries.
const STREAM_LEN: usize = 1 << 20;
const UDP: u8 = 17;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in [Kind::Layer3, Kind::Ethernet] {
        let test = |name: &str, run: fn(Kind) -> Result<()>| {
            let name = format!("sizes::{name}_{}", kind.name());
            Test::new(name, &NEEDS, move || run(kind))
        };
        tests.extend([
            test("datagrams", datagrams),
            test("not_told", not_told),
            test("stream", stream),
        ]);
    }
    tests
}

/// A way around that is narrower than the tunnel, and somebody else's route into that.
fn narrow(kind: Kind) -> Result<(Hosts, Agent, MapReader)> {
    let hosts = Hosts::new(kind)?;
    hosts.here.ip(&format!("link set {UNDER} mtu {MTU}"))?;
    hosts.route_under()?;
    hosts.here.ip(&format!(
        "route replace {THERE}/32 dev {INTERFACE} proto 99 metric 50 src {UNDER_HERE}"
    ))?;
    let agent = hosts.agent(&["--when-never-up", "reroute"])?;
    connect(&agent, &[])?;
    let maps = maps(agent.home())?;
    until_detour(&hosts, &maps, hosts.here.ifindex(UNDER)?)?;
    Ok((hosts, agent, maps))
}

/// The first one is too big, and its source makes fragments from then on.
fn datagrams(kind: Kind) -> Result<()> {
    let (hosts, _agent, maps) = narrow(kind)?;
    let socket = hosts.socket(UNDER_HERE)?;
    socket.send_to(&LARGE, (THERE, DATA))?;
    ensure!(count(&maps, Counter::GateFragNeeded)? == 1, "not told");
    ensure!(hosts.diverted(UDP)? == 0, "diverted all the same");
    eventually(PATIENCE, "fragments by the underlay", || {
        socket.send_to(&LARGE, (THERE, DATA))?;
        let seen = hosts.diverted(UDP)?;
        ensure!(seen >= 2, "{seen} packets");
        anyhow::Ok(())
    })?;
    ensure!(count(&maps, Counter::GateTooBig)? == 0);
    ensure!(hosts.in_tunnel()?.is_empty(), "into the tunnel");
    Ok(())
}

/// What may be fragmented is no news to its source: dropped, and counted.
fn not_told(kind: Kind) -> Result<()> {
    let (hosts, _agent, maps) = narrow(kind)?;
    // Sockets leave DF away.
    let file = "/proc/sys/net/ipv4/ip_no_pmtu_disc";
    hosts.here.run(|| std::fs::write(file, "1"))?;
    let socket = hosts.socket(UNDER_HERE)?;
    for sent in 1..=3 {
        socket.send_to(&LARGE, (THERE, DATA))?;
        ensure!(count(&maps, Counter::GateTooBig)? == sent, "not counted");
    }
    ensure!(count(&maps, Counter::GateFragNeeded)? == 0, "told");
    ensure!(hosts.diverted(UDP)? == 0, "diverted");
    ensure!(hosts.in_tunnel()?.is_empty(), "into the tunnel");
    Ok(())
}

/// A connection, whose kernel hands over what only the device cuts (TSO).
fn stream(kind: Kind) -> Result<()> {
    let (hosts, _agent, maps) = narrow(kind)?;
    let listener = hosts.there.run(|| TcpListener::bind((THERE, DATA)))?;
    let received = thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        Ok(all.len())
    });
    let mut stream = hosts.here.run(|| TcpStream::connect((THERE, DATA)))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&vec![7; STREAM_LEN]).context("stuck")?;
    drop(stream);
    let received = received.join().map_err(|_| anyhow!("a panic"))??;
    ensure!(received == STREAM_LEN, "{received} bytes");
    ensure!(
        count(&maps, Counter::GateFragNeeded)? >= 1,
        "nothing too big"
    );
    ensure!(count(&maps, Counter::GateTooBig)? == 0);
    Ok(())
}
