//! Sessions of several addresses through the tunnel.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::attached;
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::{Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::wait::eventually;

use crate::scene::{Hosts, NEEDS, PAIRS, Pair, agent, connect, nothing_failed, until_up};

const DETECT_MULT: u8 = 5;
const DATA: u16 = 9_000;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("sessions::two_agents", &NEEDS, two_agents),
        Test::new("sessions::plain_peers", &NEEDS, plain_peers),
    ]
}

fn two_agents() -> Result<()> {
    let hosts = Hosts::new()?;
    let mut ours = hosts.agent(DETECT_MULT)?;
    let mut theirs = agent(dz_tests::agent::Home::new()?, &hosts.there, DETECT_MULT)?;
    let back: Vec<Pair> = PAIRS.map(|(ours, theirs)| (theirs, ours)).into();
    connect(&ours, &PAIRS)?;
    connect(&theirs, &back)?;
    until_up(&ours, &hosts.here, &PAIRS)?;
    until_up(&theirs, &hosts.there, &back)?;
    attached_as_the_kernel_allows(&ours, &hosts.here)?;
    attached_as_the_kernel_allows(&theirs, &hosts.there)?;
    data_in_the_tunnel(&hosts)?;
    hosts.from_here.liveness(0)?;
    nothing_failed(&mut ours)?;
    nothing_failed(&mut theirs)
}

fn plain_peers() -> Result<()> {
    let hosts = Hosts::new()?;
    let mut agent = hosts.agent(DETECT_MULT)?;
    let _peers = hosts.peers(DETECT_MULT)?;
    connect(&agent, &PAIRS)?;
    until_up(&agent, &hosts.here, &PAIRS)?;
    hosts.from_here.liveness(0)?;
    nothing_failed(&mut agent)
}

/// By clsact below Linux 6.6, by TCX from there on: `status` says it, and so does the kernel.
fn attached_as_the_kernel_allows(agent: &Agent, netns: &Netns) -> Result<()> {
    let tcx = Requirement::Kernel(6, 6).missing().is_none();
    let hook = if tcx { "tcx" } else { "clsact" };
    let shown = agent.json(&["status", "--json"])?;
    let interface = &shown["interfaces"][0];
    ensure!(
        interface["attach"] == "tc" && interface["tc"] == hook,
        "{shown}"
    );
    let table = agent.cli(&["status"])?;
    let row = table.lines().find(|line| line.starts_with(INTERFACE));
    let row = row.with_context(|| table.clone())?;
    ensure!(row.split_whitespace().any(|word| word == hook), "{table}");
    for (direction, program) in [("ingress", "dz_tc_l3"), ("egress", "dz_gate_l3")] {
        let filters = netns.command(&format!("tc filter show dev {INTERFACE} {direction}"))?;
        ensure!(filters.contains(program) != tcx, "{direction}: {filters:?}");
    }
    if tcx {
        let programs = attached::programs(netns, INTERFACE)?;
        ensure!(programs == 2, "{programs} programs");
    }
    Ok(())
}

/// A datagram of each pair's addresses arrives, and the underlay saw it as GRE.
fn data_in_the_tunnel(hosts: &Hosts) -> Result<()> {
    for (ours, theirs) in PAIRS {
        let mark = hosts.from_here.mark();
        let from = hosts.here.run(|| UdpSocket::bind((ours, 0)))?;
        let to = hosts.there.run(|| UdpSocket::bind((theirs, DATA)))?;
        to.set_read_timeout(Some(PATIENCE + Duration::from_secs(1)))?;
        from.send_to(b"data", (theirs, DATA))?;
        let mut buffer = [0; 8];
        let (len, source) = to.recv_from(&mut buffer)?;
        ensure!(&buffer[..len] == b"data" && source.ip() == ours, "{source}");
        let data = |packet: &Vec<u8>| {
            let parsed = parse_udp(packet);
            parsed.is_some_and(|parsed| parsed.dst.port() == DATA && *parsed.src.ip() == ours)
        };
        // The capture is another thread's.
        eventually(PATIENCE, "the datagram in the tunnel", || {
            let inside = hosts.from_here.inside(mark)?;
            ensure!(inside.iter().any(data), "{inside:02x?}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}
