//! A hundred peers over one interface.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;

use crate::needs::NEEDS;

const PEERS: u8 = 100;
const INTERVAL_MS: u32 = 300;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("many::hundred_peers", &NEEDS, hundred_peers)]
}

fn hundred_peers() -> Result<()> {
    let bed = Bed::new("many", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let addresses: Vec<_> = (1..=PEERS)
        .map(|last| Ipv4Addr::new(10, 9, 0, last))
        .collect();
    let names: Vec<_> = addresses.iter().map(Ipv4Addr::to_string).collect();
    let mut peers = Vec::new();
    for address in &addresses {
        bed.there
            .ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
        let peer = bed.peer_at(*address, Rules::Deployed, INTERVAL_MS)?;
        peer.add_session(HERE);
        peers.push(peer);
    }
    let local = HERE.to_string();
    let mut words = vec!["connect", "--local", &local];
    words.extend(names.iter().map(String::as_str));
    agent.cli(&words)?;
    all_are(&bed, &agent, &peers, State::Up, peers.len())?;
    let shown = agent.cli(&["sessions"])?;
    ensure!(names.iter().all(|name| shown.contains(name)), "{shown}");

    bed.wire.set_cut_both(true);
    all_are(&bed, &agent, &peers, State::Down, 0)?;
    let timeout = |reason: DownReason| reason == DownReason::Timeout;
    let entries = bed::entries(agent.home())?;
    ensure!(
        entries
            .iter()
            .all(|entry| timeout(entry.session.last_down_reason))
    );
    bed.wire.set_cut_both(false);
    all_are(&bed, &agent, &peers, State::Up, peers.len())?;

    agent.cli(&["disconnect", "--all"])?;
    ensure!(routes(&bed)? == 0, "{} routes are left", routes(&bed)?);
    ensure!(bed::entries(agent.home())?.is_empty());
    for peer in &peers {
        bed::peer_until(peer, State::Down)?;
    }
    Ok(())
}

fn all_are(
    bed: &Bed,
    agent: &Agent,
    peers: &[UdpPeer],
    state: State,
    installed: usize,
) -> Result<()> {
    eventually(PATIENCE, &format!("all {}", state.name()), || {
        let entries = bed::entries(agent.home())?;
        ensure!(entries.len() == peers.len(), "{} sessions", entries.len());
        let right = entries.iter().filter(|entry| entry.session.state == state);
        let right = right.count();
        ensure!(right == peers.len(), "{right} sessions of ours");
        let theirs = peers.iter().filter_map(|peer| peer.session(HERE));
        let right = theirs
            .filter(|theirs| theirs.session.state == state)
            .count();
        ensure!(right == peers.len(), "{right} sessions of the peers");
        let routes = routes(bed)?;
        ensure!(routes == installed, "{routes} routes");
        anyhow::Ok(())
    })
}

fn routes(bed: &Bed) -> Result<usize> {
    Ok(bed.here.ip("route show proto 144")?.lines().count())
}
