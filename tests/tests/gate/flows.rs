//! A flow of data across a verdict: from the moment that the session can be read as not Up, not one
//! packet more enters the tunnel. What is compared is order: the state is read before each packet is
//! sent.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::Counter;
use dz_common::map::SessionKey;
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::attached;
use dz_tests::bed::{INTERFACE, PATIENCE, THERE, route_to};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::scene::{
    DATA, Hosts, Kind, NEEDS, UNDER, UNDER_HERE, arrived, connect, count, entry, maps, until,
    until_detour,
};

/// Packets after the verdict.
const MORE: usize = 300;
const PAUSE: Duration = Duration::from_micros(300);

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in Kind::ALL {
        let name = format!("flows::frozen_agent_{}", kind.name());
        tests.push(Test::new(name, &NEEDS, move || frozen(kind)));
    }
    tests.push(Test::new("flows::delete_held_back", &NEEDS, held_back));
    for kind in [Kind::Layer3, Kind::Ethernet] {
        let name = format!("flows::takeover_{}", kind.name());
        tests.push(Test::new(name, &NEEDS, move || takeover(kind)));
    }
    tests
}

/// What was sent, by what the session was right before.
#[derive(Debug, Default)]
struct Sent {
    up: BTreeSet<u64>,
    not_up: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

impl Sent {
    fn closed(&self) -> BTreeSet<u64> {
        self.not_up.union(&self.gone).copied().collect()
    }
}

/// Sends until `enough`.
fn flow(
    hosts: &Hosts,
    maps: &MapReader,
    key: &SessionKey,
    enough: impl Fn(&Sent) -> bool,
) -> Result<Sent> {
    let socket = hosts.socket(UNDER_HERE)?;
    let mut sent = Sent::default();
    let start = std::time::Instant::now();
    for sequence in 0_u64.. {
        if enough(&sent) {
            break;
        }
        ensure!(start.elapsed() < PATIENCE * 2, "too long: {}", sequence);
        let state = maps.session(key)?.map(|entry| entry.session.state);
        socket.send_to(&sequence.to_be_bytes(), (THERE, DATA))?;
        match state {
            Some(State::Up) => sent.up.insert(sequence),
            Some(_) => sent.not_up.insert(sequence),
            None => sent.gone.insert(sequence),
        };
        if sequence % 64 == 0 {
            hosts.look()?;
        }
        thread::sleep(PAUSE);
    }
    Ok(sent)
}

fn ready(kind: Kind, agent: impl FnOnce(&Hosts) -> Result<Agent>) -> Result<(Hosts, Agent)> {
    let hosts = Hosts::new(kind)?;
    hosts.route_under()?;
    let agent = agent(&hosts)?;
    connect(&agent, &[])?;
    until_detour(&hosts, &maps(agent.home())?, hosts.here.ifindex(UNDER)?)?;
    Ok((hosts, agent))
}

/// What was sent after the verdict must have come out of the underlay, all of it, and none of it of
/// the tunnel; what came before it, of the tunnel.
fn judge(hosts: &Hosts, sent: &Sent) -> Result<()> {
    let closed = sent.closed();
    eventually(PATIENCE, "everything by the underlay", || {
        let missing = closed.difference(&hosts.in_underlay()?).count();
        ensure!(missing == 0, "{missing} of {} missing", closed.len());
        anyhow::Ok(())
    })?;
    // But for the one that was sent between the last look and the verdict.
    let tunnelled = eventually(PATIENCE, "what came before by the tunnel", || {
        let tunnelled = hosts.in_tunnel()?;
        let missing: Vec<_> = sent.up.difference(&tunnelled).collect();
        let few = missing.len() <= 3 && missing.len() < sent.up.len();
        ensure!(few, "missing of {}: {missing:?}", sent.up.len());
        anyhow::Ok(tunnelled)
    })?;
    let leaked: Vec<_> = tunnelled.intersection(&closed).collect();
    ensure!(leaked.is_empty(), "entered the tunnel: {leaked:?}");
    let (first, last) = (sent.up.first(), sent.up.last());
    println!(
        "while Up {} ({first:?} to {last:?}), {} of them through the tunnel; {} while not Up and {} \
         without a session: none",
        sent.up.len(),
        tunnelled.len(),
        sent.not_up.len(),
        sent.gone.len()
    );
    Ok(())
}

/// The peer falls silent while the agent stands still: the verdict and all that follows from it are
/// the kernel's.
fn frozen(kind: Kind) -> Result<()> {
    let (hosts, mut agent) = ready(kind, |hosts| hosts.agent(&[]))?;
    let peer = hosts.peer()?;
    let maps = maps(agent.home())?;
    until(&maps, State::Up)?;
    dz_tests::bed::until_route(&hosts.here, THERE, true)?;
    let key = entry(&maps)?.key;
    agent.process().freeze()?;
    peer.silence();
    let sent = flow(&hosts, &maps, &key, |sent| sent.not_up.len() >= MORE)?;
    ensure!(!route_to(&hosts.here, THERE)?.is_empty(), "the route went");
    ensure!(count(&maps, Counter::GateRerouted)? >= MORE as u64);
    judge(&hosts, &sent)?;
    agent.process().signal(Signal::SIGCONT)
}

/// A disconnect whose route cannot be deleted for two seconds.
fn held_back() -> Result<()> {
    let (hosts, agent) = ready(Kind::Layer3, |hosts| {
        Agent::start_with_faults(Home::new()?, &hosts.here, &hosts.run_options(&[]))
    })?;
    let _peer = hosts.peer()?;
    let maps = maps(agent.home())?;
    until(&maps, State::Up)?;
    dz_tests::bed::until_route(&hosts.here, THERE, true)?;
    let key = entry(&maps)?.key;
    let faults = agent.home().faults()?;
    faults.delay_delete(Duration::from_secs(2))?;
    let sent = thread::scope(|scope| {
        let flow = scope.spawn(|| flow(&hosts, &maps, &key, |sent| sent.gone.len() >= MORE));
        eventually(PATIENCE, "packets in the tunnel", || {
            let sent = hosts.in_tunnel()?.len();
            ensure!(sent >= 10, "{sent}");
            anyhow::Ok(())
        })?;
        agent.cli(&["disconnect", &THERE.to_string()])?;
        flow.join()
            .map_err(|_| anyhow::anyhow!("the flow has failed"))?
    })?;
    ensure!(sent.not_up.len() >= 100, "{}", sent.not_up.len());
    judge(&hosts, &sent)
}

/// Agents come and go while the session is Down, and somebody else's route leads into the tunnel.
fn takeover(kind: Kind) -> Result<()> {
    let (hosts, agent) = ready(kind, |hosts| hosts.agent(&[]))?;
    hosts.route_into_tunnel()?;
    let peer = hosts.peer()?;
    let maps = maps(agent.home())?;
    until(&maps, State::Up)?;
    let key = entry(&maps)?.key;
    peer.silence();
    until(&maps, State::Down)?;
    let stop = AtomicBool::new(false);
    let (agent, sent) = thread::scope(|scope| {
        let flow = scope.spawn(|| flow(&hosts, &maps, &key, |_| stop.load(Ordering::Relaxed)));
        let agent = (|| {
            let home = agent.end(Signal::SIGUSR2)?;
            let agent = hosts.agent_in(home, &[])?;
            let home = agent.crash()?;
            hosts.agent_in(home, &[])
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = flow.join();
        let sent = sent.map_err(|_| anyhow::anyhow!("the flow has failed"))??;
        anyhow::Ok((agent?, sent))
    })?;
    ensure!(sent.up.is_empty() && sent.gone.is_empty(), "{sent:?}");
    arrived("by the underlay", &sent.not_up, || hosts.in_underlay())?;
    ensure!(hosts.in_tunnel()?.is_empty(), "entered the tunnel");
    println!(
        "{} packets across two takeovers, none into the tunnel",
        sent.not_up.len()
    );

    let home = agent.end(Signal::SIGTERM)?;
    ensure!(attached::programs(&hosts.here, INTERFACE)? == 0);
    ensure!(!home.pin_dir().exists(), "{}", home.pin_dir().display());
    entry(&maps).err().context("a session is left")?;
    Ok(())
}
