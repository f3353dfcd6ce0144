//! Agents beside BIRD: what each of the two does, and what becomes of the data.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::Destination;
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::wait::{eventually, holds};
use nix::sys::signal::Signal;

use crate::beside::Beside;
use crate::scene::{Host, Kind};
use crate::sessions::{entries, until};
use crate::traffic::{Traffic, Way};

const ALL: [usize; 4] = [0, 1, 2, 3];
const LONGER_THAN_DETECTION: Duration = Duration::from_secs(4);

/// Sessions come Up without a word from anybody. An agent ends, and what is sent to its host leaves
/// by the underlay although BGP still has the routes; it starts, and everything is as before.
pub(crate) fn stopped(kind: Kind) -> Result<()> {
    let mut beside = Beside::new(kind, ALL.len())?;
    let hosts = beside.hosts.clone();
    let (here, there) = (&hosts.here, &hosts.there);
    let (out, back) = (Traffic::new(here, there)?, Traffic::new(there, here)?);
    beside.until_all(State::Up)?;
    for number in ALL {
        out.until(number, Way::Tunnel)?;
        back.until(number, Way::Tunnel)?;
        let way = out.way(number, here.addresses[number])?;
        ensure!(way == Way::Tunnel, "from an allocated address: {way:?}");
    }
    let before = beside.bystanders()?;

    let home = beside
        .far_agent
        .take()
        .context("no agent")?
        .end(Signal::SIGTERM)?;
    until(beside.agent()?, (here, there), &ALL, State::Down)?;
    for number in ALL {
        out.until(number, Way::Underlay)?;
        // What nobody but the tunnel knows must not be seen on the underlay.
        let way = out.way(number, here.addresses[number])?;
        ensure!(way == Way::Nowhere, "from an allocated address: {way:?}");
        // Nobody is left over there to keep packets out of the tunnel.
        back.until(number, Way::Tunnel)?;
    }
    beside.unchanged(&before)?;

    beside.far_agent = Some(there.agent(home)?);
    beside.until_all(State::Up)?;
    for number in ALL {
        out.until(number, Way::Tunnel)?;
        back.until(number, Way::Tunnel)?;
    }
    beside.unchanged(&before)
}

/// Agents are killed and started again, and nobody notices.
pub(crate) fn crashed(kind: Kind) -> Result<()> {
    let mut beside = Beside::new(kind, ALL.len())?;
    let hosts = beside.hosts.clone();
    let (here, there) = (&hosts.here, &hosts.there);
    let out = Traffic::new(here, there)?;
    beside.until_all(State::Up)?;
    let before = beside.bystanders()?;
    let sessions = beside.steady(&ALL)?;

    let home = beside.far_agent.take().context("no agent")?.crash()?;
    out.until(0, Way::Tunnel)?;
    beside.far_agent = Some(there.agent(home)?);
    let home = beside.agent.take().context("no agent")?.crash()?;
    beside.agent = Some(here.agent(home)?);
    holds(LONGER_THAN_DETECTION, "sessions as they were", || {
        let now = beside.steady(&ALL)?;
        ensure!(now == sessions, "{now:#?}, before: {sessions:#?}");
        anyhow::Ok(())
    })?;
    out.until(0, Way::Tunnel)?;
    beside.unchanged(&before)
}

/// BGP takes one route back: its peer, session and forwarding are gone, and nothing happens to the
/// others.
pub(crate) fn withdrawn(kind: Kind) -> Result<()> {
    const ONE: usize = 1;
    const OTHERS: [usize; 3] = [0, 2, 3];
    let beside = Beside::new(kind, ALL.len())?;
    let hosts = beside.hosts.clone();
    let (here, there) = (&hosts.here, &hosts.there);
    let (out, back) = (Traffic::new(here, there)?, Traffic::new(there, here)?);
    beside.until_all(State::Up)?;
    let others = beside.steady(&OTHERS)?;

    beside.far_bird()?.withdraw(ONE)?;
    until(beside.agent()?, (here, there), &OTHERS, State::Up)?;
    ensure!(!has_gate(&beside, here, there, ONE)?, "a gate is left");
    // The route to the whole network, which leads to the underlay.
    out.until(ONE, Way::Underlay)?;
    // Over there BGP still has its route, but the session has been given up at this end.
    eventually(PATIENCE, "Down over there", || {
        let entries = entries(beside.far_agent()?.home(), here)?;
        let session = &entries.get(ONE).context("no session")?.1.session;
        let why = (session.state, session.last_down_reason);
        ensure!(why == (State::Down, DownReason::RemoteAdmin), "{why:?}");
        anyhow::Ok(())
    })?;
    back.until(ONE, Way::Underlay)?;
    for number in OTHERS {
        out.until(number, Way::Tunnel)?;
        back.until(number, Way::Tunnel)?;
    }
    ensure!(beside.steady(&OTHERS)? == others, "others have changed");

    beside.far_bird()?.announce(ONE)?;
    beside.until_all(State::Up)?;
    out.until(ONE, Way::Tunnel)?;
    back.until(ONE, Way::Tunnel)?;
    ensure!(beside.steady(&OTHERS)? == others, "others have changed");
    Ok(())
}

/// BIRD is told to end: it takes its routes along, so that both ends have none. It starts again:
/// everything is back.
pub(crate) fn daemon_ended(kind: Kind) -> Result<()> {
    daemon_gone(kind, Signal::SIGTERM)
}

/// BIRD is killed: its own routes stay behind, those that the far end had from it go. The far end
/// gives the sessions up; so they are Down here, and the gate keeps packets off routes that lead
/// nowhere any more. BIRD starts again: everything is back.
pub(crate) fn daemon_killed(kind: Kind) -> Result<()> {
    daemon_gone(kind, Signal::SIGKILL)
}

fn daemon_gone(kind: Kind, signal: Signal) -> Result<()> {
    let mut beside = Beside::new(kind, ALL.len())?;
    let hosts = beside.hosts.clone();
    let (here, there) = (&hosts.here, &hosts.there);
    let (out, back) = (Traffic::new(here, there)?, Traffic::new(there, here)?);
    beside.until_all(State::Up)?;

    beside.bird.take().context("no BIRD")?.end(signal)?;
    until(beside.far_agent()?, (there, here), &[], State::Up)?;
    if signal == Signal::SIGTERM {
        here.until_routes(there, &[])?;
        until(beside.agent()?, (here, there), &[], State::Up)?;
    } else {
        until(beside.agent()?, (here, there), &ALL, State::Down)?;
        here.until_routes(there, &ALL)?;
    }
    for number in ALL {
        out.until(number, Way::Underlay)?;
        back.until(number, Way::Underlay)?;
    }

    beside.bird = Some(here.bird(there)?);
    beside.until_all(State::Up)?;
    for number in ALL {
        out.until(number, Way::Tunnel)?;
        back.until(number, Way::Tunnel)?;
    }
    Ok(())
}

/// Whether packets from one host to an address of the other are for the gate to decide on.
fn has_gate(beside: &Beside, here: &Host, there: &Host, number: usize) -> Result<bool> {
    let maps = MapReader::from_pins(beside.agent()?.home().pin_dir())?;
    let (ifindex, peer) = (here.netns.ifindex(INTERFACE)?, there.addresses[number]);
    let destination = Destination {
        ifindex,
        peer: peer.octets(),
    };
    let mut sessions = maps.sessions()?.into_iter();
    Ok(sessions.any(|entry| entry.key.destination() == destination))
}
