//! The incident that this project exists for, between two kernels: connect with an allocated
//! address, disconnect, the tunnel is deleted and created anew, connect without the address. The same
//! from and to public addresses, and with the disconnect forgotten.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::udp_peer::UdpPeer;
use dz_tests::wait::eventually;

use crate::capture::Seen;
use crate::scene::{
    A, B, Hosts, NEEDS, OTHER, PEERS, Pair, UNDER, UNDER_HERE, address, connect, failures,
    nothing_failed, pair, until_up,
};

const DETECT_MULT: u8 = 5;
/// How often each peer asks for A after it is gone, before we say that nothing leaves from it.
const ASKED_AGAIN: u64 = 5;

pub(super) fn tests() -> Vec<Test> {
    let replay = |name: &str, first, second| {
        let name = format!("incident::replayed{name}");
        Test::new(name, &NEEDS, move || replayed(first, second))
    };
    vec![
        replay("", A, HERE),
        replay("_to_plain", A, UNDER_HERE),
        replay("_from_plain", UNDER_HERE, A),
        replay("_between_plain", UNDER_HERE, OTHER),
        Test::new("incident::forgotten", &NEEDS, forgotten),
    ]
}

struct Scene {
    hosts: Hosts,
    agent: Agent,
    /// They forget no address of ours.
    peers: Vec<UdpPeer>,
    first: Ipv4Addr,
    ifindex: u32,
}

/// Every peer from one of our addresses.
fn pairs(local: Ipv4Addr) -> Vec<Pair> {
    PEERS.map(|peer| (local, peer)).into()
}

impl Scene {
    /// Up from the first address.
    fn new(first: Ipv4Addr) -> Result<Self> {
        let hosts = Hosts::new()?;
        address(&hosts.here, "delete", A)?;
        address(&hosts.here, "delete", B)?;
        hold(&hosts, first)?;
        let agent = hosts.agent(DETECT_MULT)?;
        let peers = PEERS.map(|peer| hosts.peer(peer, DETECT_MULT));
        let peers: Vec<_> = peers.into_iter().collect::<Result<_>>()?;
        for peer in &peers {
            peer.add_session(first);
        }
        connect_from(&agent, first)?;
        until_up(&agent, &hosts.here, &pairs(first))?;
        let ifindex = hosts.here.ifindex(INTERFACE)?;
        Ok(Self {
            hosts,
            agent,
            peers,
            first,
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

    /// Waits until every peer has sent to the first address some more times.
    fn asked_again(&self) -> Result<()> {
        let asked = |peer: &UdpPeer| peer.session(self.first).map_or(0, |session| session.sent);
        let before: Vec<_> = self.peers.iter().map(asked).collect();
        eventually(
            PATIENCE,
            "peers that ask for the first address again",
            || {
                let now: Vec<_> = self.peers.iter().map(asked).collect();
                let enough = now
                    .iter()
                    .zip(&before)
                    .all(|(now, then)| *now >= then + ASKED_AGAIN);
                ensure!(enough, "{before:?}, then {now:?}");
                anyhow::Ok(())
            },
        )
    }

    /// Liveness packets from the first address since a mark, oldest first.
    fn said_from_first(&self, mark: usize) -> Result<Vec<Seen>> {
        let mut seen = self.hosts.from_here.liveness(mark)?;
        seen.retain(|seen| seen.from == self.first);
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

/// Gives our host an address, if it needs to be given, and has the far end's packets come to it.
fn hold(hosts: &Hosts, local: Ipv4Addr) -> Result<()> {
    match local {
        HERE => {}
        UNDER_HERE => hosts.public(local)?,
        OTHER => {
            hosts
                .here
                .ip(&format!("address add {local}/32 dev {UNDER}"))?;
            hosts.public(local)?;
        }
        _ => address(&hosts.here, "add", local)?,
    }
    Ok(())
}

/// Connects every peer. Where it is clear which address is meant, it is not named: the tunnel's only
/// global one, or the one that it starts from.
fn connect_from(agent: &Agent, local: Ipv4Addr) -> Result<()> {
    if matches!(local, A | UNDER_HERE) {
        let peers = PEERS.map(|peer| peer.to_string());
        let mut words = vec!["connect"];
        words.extend(peers.iter().map(String::as_str));
        return agent.cli(&words).map(|_| ());
    }
    connect(agent, &pairs(local))
}

fn replayed(first: Ipv4Addr, second: Ipv4Addr) -> Result<()> {
    let mut scene = Scene::new(first)?;
    let start = scene.hosts.from_here.mark();
    scene.agent.cli(&["disconnect", "--all"])?;
    let entries = bed::entries(scene.agent.home())?;
    ensure!(entries.is_empty(), "after the reply: {entries:?}");
    let routes = scene.hosts.here.ip("route show proto 144")?;
    ensure!(routes.is_empty(), "after the reply: {routes}");

    scene.another_tunnel()?;
    hold(&scene.hosts, second)?;
    for peer in &scene.peers {
        peer.add_session(second);
    }
    // At once: nobody has to wait until the agent has seen the new interface.
    connect_from(&scene.agent, second)?;
    until_up(&scene.agent, &scene.hosts.here, &pairs(second))?;
    // Deployed peers do not forget the first address: they go on asking for it.
    scene.asked_again()?;

    let said = scene.said_from_first(start)?;
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
    until_up(&scene.agent, &scene.hosts.here, &pairs(second))?;
    scene.only(second)?;
    nothing_failed(&mut scene.agent)
}

/// Its sessions are parked, with the reason, and nothing leaves from A.
fn forgotten() -> Result<()> {
    let mut scene = Scene::new(A)?;
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
