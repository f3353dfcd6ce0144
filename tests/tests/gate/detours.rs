//! Ways around: the best route by an interface without a gate, as the routing table has it now; and
//! what is not to take one.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_agent::host::lock::InterfaceLock;
use dz_common::counters::Counter;
use dz_common::map::SessionEntry;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{HERE, INTERFACE, THERE};
use dz_tests::harness::Test;
use dz_tests::pinned::Pinned;
use dz_tests::tun::Tun;
use dz_tests::veth::{self, End};
use nix::sys::signal::Signal;

use crate::scene::{
    DATA, Hosts, Kind, NEEDS, UNDER, UNDER_HERE, UNDER_THERE, connect, count, entry, maps,
    until_confined, until_detour,
};

const REROUTE: [&str; 2] = ["--when-never-up", "reroute"];
/// A second tunnel.
const SECOND: &str = "doublezero1";
const SECOND_HERE: Ipv4Addr = Ipv4Addr::new(169, 254, 8, 0);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("detours::follow_the_table", &NEEDS, follow),
        Test::new("detours::sources", &NEEDS, sources),
        Test::new("detours::gates_do_not_loop", &NEEDS, no_loop),
        Test::new("detours::gates_of_two_do_not_loop", &NEEDS, no_loop_of_two),
    ]
}

/// Sends one packet and returns what counts it.
fn one(hosts: &Hosts, agent: &Agent, exit: Counter) -> Result<()> {
    let maps = maps(agent.home())?;
    let before = count(&maps, exit)?;
    let socket = hosts.socket(UNDER_HERE)?;
    socket.send_to(&before.to_be_bytes(), (THERE, DATA))?;
    let after = count(&maps, exit)?;
    let all = crate::scene::counted(&maps)?;
    ensure!(after == before + 1, "not {exit:?}: {all:?}");
    Ok(())
}

fn follow() -> Result<()> {
    let hosts = Hosts::new(Kind::Layer3)?;
    hosts.route_into_tunnel()?;
    let agent = hosts.agent(&REROUTE)?;
    connect(&agent, &[])?;
    let maps = maps(agent.home())?;
    let under = hosts.here.ifindex(UNDER)?;
    until_detour(&hosts, &maps, 0)?;
    one(&hosts, &agent, Counter::GateNoDetour)?;

    let wide = format!("169.254.0.0/16 via {UNDER_THERE} dev {UNDER}");
    hosts.here.ip(&format!("route add {wide}"))?;
    until_detour(&hosts, &maps, under)?;
    one(&hosts, &agent, Counter::GateRerouted)?;

    // A longer prefix by another interface is better, whatever its metric.
    let (near, far) = (
        End::new(&hosts.here, "under1", "198.51.100.1/30"),
        End::new(&hosts.there, "under1", "198.51.100.2/30"),
    );
    veth::pair(&near, &far)?;
    let narrow = format!("{THERE}/32 via 198.51.100.2 dev under1 metric 900");
    hosts.here.ip(&format!("route add {narrow}"))?;
    until_detour(&hosts, &maps, hosts.here.ifindex("under1")?)?;
    hosts.here.ip(&format!("route delete {narrow}"))?;
    until_detour(&hosts, &maps, under)?;
    // Of the same length, the lower metric.
    let other = "169.254.0.0/16 via 198.51.100.2 dev under1 metric 5";
    hosts.here.ip(&format!("route add {other}"))?;
    hosts.here.ip(&format!("route delete {wide}"))?;
    hosts.here.ip(&format!("route add {wide} metric 9"))?;
    until_detour(&hosts, &maps, hosts.here.ifindex("under1")?)?;

    // An interface that goes down takes its routes along without a word.
    hosts.here.ip("link set under1 down")?;
    until_detour(&hosts, &maps, under)?;
    hosts.here.ip(&format!("link set {UNDER} down"))?;
    until_detour(&hosts, &maps, 0)?;
    // Its address is there all the same, for a socket to use.
    one(&hosts, &agent, Counter::GateNoDetour)?;
    hosts.here.ip(&format!("link set {UNDER} up"))?;
    hosts.here.ip(&format!("route add {wide}"))?;
    until_detour(&hosts, &maps, under)?;
    one(&hosts, &agent, Counter::GateRerouted)?;

    // Nor by an interface that another agent serves; that has no notification of its own.
    let lock = hosts.here.run(|| InterfaceLock::acquire(UNDER))?;
    until_detour(&hosts, &maps, 0)?;
    drop(lock);
    until_detour(&hosts, &maps, under)
}

fn sources() -> Result<()> {
    let hosts = Hosts::new(Kind::Layer3)?;
    hosts.route_under()?;
    hosts.route_into_tunnel()?;
    let agent = hosts.agent(&REROUTE)?;
    connect(&agent, &[])?;
    let maps = maps(agent.home())?;
    until_detour(&hosts, &maps, hosts.here.ifindex(UNDER)?)?;
    until_confined(&maps, HERE, true)?;
    let socket = hosts.socket(HERE)?;
    let send = |sequence: u64, exit: Counter| -> Result<()> {
        let before = count(&maps, exit)?;
        socket.send_to(&sequence.to_be_bytes(), (THERE, DATA))?;
        ensure!(count(&maps, exit)? == before + 1, "{sequence}: {exit:?}");
        Ok(())
    };
    send(1, Counter::GateConfined)?;
    // An address that the underlay holds as well may be seen there, until it does not any more.
    hosts
        .here
        .ip(&format!("address add {HERE}/32 dev {UNDER}"))?;
    until_confined(&maps, HERE, false)?;
    send(2, Counter::GateRerouted)?;
    hosts
        .here
        .ip(&format!("address delete {HERE}/32 dev {UNDER}"))?;
    until_confined(&maps, HERE, true)?;
    send(3, Counter::GateConfined)?;
    // Another address of the tunnel's is confined from its first moment.
    let allocated = Ipv4Addr::new(100, 64, 0, 7);
    hosts
        .here
        .ip(&format!("address add {allocated}/32 dev {INTERFACE}"))?;
    until_confined(&maps, allocated, true)?;
    hosts
        .socket(allocated)?
        .send_to(&4_u64.to_be_bytes(), (THERE, DATA))?;
    crate::scene::arrived("by the underlay", &[2].into(), || hosts.in_underlay())?;
    ensure!(hosts.in_tunnel()?.is_empty());
    Ok(())
}

/// Two gates, neither session Up: neither is a way around the other; and if an entry says so all the
/// same, no packet goes there.
fn no_loop() -> Result<()> {
    let hosts = Hosts::new(Kind::Layer3)?;
    let _second = Tun::new(&hosts.here, SECOND, &["169.254.8.0/31"])?;
    hosts.route_into_tunnel()?;
    hosts.here.ip(&format!(
        "route add {THERE}/32 dev {SECOND} proto 99 metric 60"
    ))?;
    let mut options = REROUTE.to_vec();
    options.extend(["--interface", SECOND]);
    let mut agent = hosts.agent(&options)?;
    connect(&agent, &["--interface", INTERFACE])?;
    let (there, local) = (THERE.to_string(), SECOND_HERE.to_string());
    agent.cli(&["connect", &there, "--local", &local, "--interface", SECOND])?;
    let maps = maps(agent.home())?;
    until_detour(&hosts, &maps, 0)?;
    one(&hosts, &agent, Counter::GateNoDetour)?;

    agent.process().freeze()?;
    let pinned = Pinned::open(agent.home().pin_dir())?;
    let (first, second) = (hosts.here.ifindex(INTERFACE)?, hosts.here.ifindex(SECOND)?);
    for entry in maps.sessions()? {
        let detour = first + second - entry.key.ifindex;
        pinned.set_session(&SessionEntry { detour, ..entry })?;
    }
    one(&hosts, &agent, Counter::GateNoDetour)?;
    ensure!(count(&maps, Counter::GateRerouted)? == 0, "diverted");
    ensure!(hosts.in_tunnel()?.is_empty() && hosts.in_underlay()?.is_empty());
    agent.process().signal(Signal::SIGCONT).context("going on")
}

/// The same with two agents, whose maps are not each other's: the kernel ends it after some rounds.
fn no_loop_of_two() -> Result<()> {
    let hosts = Hosts::new(Kind::Layer3)?;
    let _second = Tun::new(&hosts.here, SECOND, &["169.254.8.0/31"])?;
    hosts.route_into_tunnel()?;
    let mut first = hosts.agent(&REROUTE)?;
    connect(&first, &[])?;
    let mut options = vec!["--interface", SECOND, "--metrics-listen=off"];
    options.extend(REROUTE);
    let mut second = Agent::start_in(Home::new()?, &hosts.here, &options)?;
    let (there, local) = (THERE.to_string(), SECOND_HERE.to_string());
    second.cli(&["connect", &there, "--local", &local])?;

    let mut all = Vec::new();
    for (agent, detour) in [(&mut first, SECOND), (&mut second, INTERFACE)] {
        agent.process().freeze()?;
        let maps = maps(agent.home())?;
        let detour = hosts.here.ifindex(detour)?;
        let entry = SessionEntry {
            detour,
            ..entry(&maps)?
        };
        Pinned::open(agent.home().pin_dir())?.set_session(&entry)?;
        all.push(maps);
    }
    let packet = b"diverted from one to the other".as_slice();
    hosts.socket(UNDER_HERE)?.send_to(packet, (THERE, DATA))?;
    let rounds = |maps: &MapReader| count(maps, Counter::GateRerouted);
    let rounds = rounds(&all[0])? + rounds(&all[1])?;
    println!("diverted {rounds} times");
    // Ten by the kernel's limit (`XMIT_RECURSION_LIMIT`), on Linux 6.1 as on 6.18.
    ensure!((2..=16).contains(&rounds), "diverted {rounds} times");
    ensure!(hosts.in_tunnel()?.is_empty() && hosts.in_underlay()?.is_empty());
    for agent in [&mut first, &mut second] {
        agent
            .process()
            .signal(Signal::SIGCONT)
            .context("going on")?;
    }
    Ok(())
}
