//! The incident that this project exists for, between two kernels: connect with an allocated
//! address, disconnect, the tunnel is deleted and created anew, connect without the address. And the
//! same with the disconnect forgotten.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::UdpPeer;
use dz_tests::wait::eventually;

use crate::NEEDS;
use crate::capture::Seen;
use crate::scene::{
    A, B, Hosts, PEERS, Pair, address, connect, failures, nothing_failed, pair, until_up,
};

const DETECT_MULT: u8 = 5;
/// How often each peer asks for A after it is gone, before we say that nothing leaves from it.
const ASKED_AGAIN: u64 = 5;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("incident::replayed", &NEEDS, replayed),
        Test::new("incident::forgotten", &NEEDS, forgotten),
    ]
}

struct Scene {
    hosts: Hosts,
    agent: Agent,
    /// They know A and the link's address, and forget neither.
    peers: Vec<UdpPeer>,
    ifindex: u32,
}

/// Every peer from one of our addresses.
fn pairs(local: Ipv4Addr) -> Vec<Pair> {
    PEERS.map(|peer| (local, peer)).into()
}

impl Scene {
    /// Up from A.
    fn new() -> Result<Self> {
        let hosts = Hosts::new()?;
        address(&hosts.here, "delete", B)?;
        let agent = hosts.agent(DETECT_MULT)?;
        let peers = PEERS.map(|peer| hosts.peer(peer, DETECT_MULT));
        let peers: Vec<_> = peers.into_iter().collect::<Result<_>>()?;
        for peer in &peers {
            peer.add_session(A);
        }
        connect(&agent, &pairs(A))?;
        until_up(&agent, &hosts.here, &pairs(A))?;
        let ifindex = hosts.here.ifindex(INTERFACE)?;
        Ok(Self {
            hosts,
            agent,
            peers,
            ifindex,
        })
    }

    /// The tunnel really goes, and comes back under another index without A.
    fn another_tunnel(&self) -> Result<()> {
        self.hosts.delete_tunnel()?;
        self.hosts.create_tunnel()?;
        let ifindex = self.hosts.here.ifindex(INTERFACE)?;
        ensure!(ifindex != self.ifindex, "the same index {ifindex}");
        Ok(())
    }

    /// Waits until every peer has sent to A some more times.
    fn asked_again(&self) -> Result<()> {
        let asked = |peer: &UdpPeer| peer.session(A).map_or(0, |session| session.sent);
        let before: Vec<_> = self.peers.iter().map(asked).collect();
        eventually(PATIENCE, "peers that ask for A again", || {
            let now: Vec<_> = self.peers.iter().map(asked).collect();
            let enough = now
                .iter()
                .zip(&before)
                .all(|(now, then)| *now >= then + ASKED_AGAIN);
            ensure!(enough, "{before:?}, then {now:?}");
            anyhow::Ok(())
        })
    }

    /// Liveness packets from A since a mark, oldest first.
    fn said_from_a(&self, mark: usize) -> Result<Vec<Seen>> {
        let mut seen = self.hosts.from_here.liveness(mark)?;
        seen.retain(|seen| seen.from == A);
        Ok(seen)
    }

    /// Maps and routes hold this address's sessions and nothing else.
    fn only(&self, local: Ipv4Addr) -> Result<()> {
        let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
        let ifindex = self.hosts.here.ifindex(INTERFACE)?;
        let sessions = maps.sessions()?;
        let right = sessions
            .iter()
            .all(|entry| pair(entry).0 == local && entry.key.ifindex == ifindex);
        ensure!(right && sessions.len() == PEERS.len(), "{sessions:?}");
        let peers = maps.peers()?;
        ensure!(peers.len() == PEERS.len(), "{peers:?}");
        ensure!(
            peers.iter().all(|(_, peer)| peer.local == local.octets()),
            "{peers:?}"
        );
        let routes = self.hosts.here.ip("route show proto 144")?;
        let from = format!(" src {local} ");
        ensure!(
            routes.lines().count() == PEERS.len()
                && routes
                    .lines()
                    .all(|line| format!("{line} ").contains(&from)),
            "{routes}"
        );
        Ok(())
    }
}

fn replayed() -> Result<()> {
    let mut scene = Scene::new()?;
    let start = scene.hosts.from_here.mark();
    scene.agent.cli(&["disconnect", "--all"])?;
    let entries = bed::entries(scene.agent.home())?;
    ensure!(entries.is_empty(), "after the reply: {entries:?}");
    let routes = scene.hosts.here.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "after the reply: {routes}");

    scene.another_tunnel()?;
    for peer in &scene.peers {
        peer.add_session(HERE);
    }
    // At once: nobody has to wait until the agent has seen the new interface.
    connect(&scene.agent, &pairs(HERE))?;
    until_up(&scene.agent, &scene.hosts.here, &pairs(HERE))?;
    // Deployed peers do not forget A: they go on asking for it.
    scene.asked_again()?;

    let said = scene.said_from_a(start)?;
    for peer in PEERS {
        let to_peer = said.iter().filter(|seen| seen.to == peer);
        let states: Vec<_> = to_peer.map(|seen| seen.packet.state).collect();
        let first = states.iter().position(|state| *state == State::AdminDown);
        let first = first.with_context(|| format!("no farewell to {peer}: {states:?}"))?;
        ensure!(
            states[first..] == [State::AdminDown; 3],
            "to {peer} from the commit on: {states:?}"
        );
    }
    until_up(&scene.agent, &scene.hosts.here, &pairs(HERE))?;
    scene.only(HERE)?;
    nothing_failed(&mut scene.agent)
}

/// Its sessions are parked, with the reason, and nothing leaves from A.
fn forgotten() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.hosts.delete_tunnel()?;
    let start = scene.hosts.from_here.mark();
    scene.hosts.create_tunnel()?;
    address(&scene.hosts.here, "add", B)?;
    let reason = format!("{A} is not an address of this host");
    eventually(PATIENCE, "parked sessions", || {
        let shown = scene.agent.json(&["sessions", "--json"])?;
        let parked = shown["parked"].as_array().context("nothing parked")?;
        ensure!(parked.len() == PEERS.len(), "{shown}");
        for peer in parked {
            let said = peer["reason"].as_str().context("no reason")?;
            ensure!(said.contains(&reason), "{peer}");
        }
        let entries = bed::entries(scene.agent.home())?;
        ensure!(entries.is_empty(), "{entries:?}");
        let routes = scene.hosts.here.ip("route show proto 144")?;
        ensure!(routes.is_empty(), "{routes}");
        anyhow::Ok(())
    })?;
    // What our clock meant to send in the moment before the agent knew is counted: no tunnel took it.
    let before = failures(scene.agent.home())?;
    scene.asked_again()?;
    let sent = scene.hosts.sent_from(A, start)?;
    ensure!(
        sent.is_empty(),
        "{} packets from A: {sent:02x?}",
        sent.len()
    );

    // A comes back, and so do they.
    address(&scene.hosts.here, "add", A)?;
    until_up(&scene.agent, &scene.hosts.here, &pairs(A))?;
    scene.only(A)?;
    let more = failures(scene.agent.home())? - before;
    ensure!(more == 0, "{more} failures");
    let log = scene.agent.process().log();
    ensure!(!log.contains("unreachable"), "{log}");
    Ok(())
}
