//! An agent that follows, plain peers at the far end, and routes that somebody else makes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::{Origin, Peer, PeerKey, SessionEntry};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;

/// Peers at the far end.
pub(crate) const PEERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(10, 9, 0, 2),
    Ipv4Addr::new(10, 9, 0, 3),
];
/// A second address of ours.
pub(crate) const ALLOCATED: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

const INTERVAL: &str = "100ms";
const INTERVAL_US: u32 = 100_000;
/// Three seconds: a busy machine takes nobody Down.
const DETECT_MULT: u8 = 30;

pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) agent: Agent,
    _peers: Vec<UdpPeer>,
}

impl Scene {
    /// With an agent that has these further arguments.
    pub(crate) fn new(label: &str, arguments: &[&str]) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        let _peers = far_side(&bed)?;
        bed.here
            .ip(&format!("address add {ALLOCATED}/32 dev {INTERFACE}"))?;
        let agent = start(Home::new()?, &bed, arguments)?;
        Ok(Self { bed, agent, _peers })
    }

    /// Runs `ip route` with these words at our end.
    pub(crate) fn route(&self, words: &str) -> Result<String> {
        self.bed.here.ip(&format!("route {words}"))
    }

    /// Another agent in the place of this one, which has ended and left its home.
    pub(crate) fn again(
        self,
        home: impl FnOnce(Agent) -> Result<Home>,
        arguments: &[&str],
    ) -> Result<Self> {
        let Self { bed, agent, _peers } = self;
        let agent = start(home(agent)?, &bed, arguments)?;
        Ok(Self { bed, agent, _peers })
    }

    pub(crate) fn entries(&self) -> Result<Vec<SessionEntry>> {
        bed::entries(self.agent.home())
    }

    /// What is wanted, by the peer's address.
    pub(crate) fn wanted(&self) -> Result<BTreeMap<Ipv4Addr, Peer>> {
        let peers = MapReader::from_pins(self.agent.home().pin_dir())?.peers()?;
        let by_address = |(key, peer): (PeerKey, Peer)| (key.peer.into(), peer);
        Ok(peers.into_iter().map(by_address).collect())
    }

    /// Waits until there are sessions with these peers from these addresses, Up, and no others.
    pub(crate) fn until_up(&self, wanted: &[(Ipv4Addr, Ipv4Addr)]) -> Result<()> {
        eventually(PATIENCE, &format!("{wanted:?} Up"), || {
            let entries = self.entries()?;
            let up = |(peer, local): &(Ipv4Addr, Ipv4Addr)| {
                let mut entries = entries.iter();
                entries.any(|entry| {
                    entry.key.peer == peer.octets()
                        && entry.key.local == local.octets()
                        && entry.session.state == State::Up
                })
            };
            ensure!(
                entries.len() == wanted.len() && wanted.iter().all(up),
                "{entries:?}"
            );
            anyhow::Ok(())
        })
    }

    /// Waits until these and no others are peers because of their routes.
    pub(crate) fn until_followed(&self, wanted: &[Ipv4Addr]) -> Result<()> {
        eventually(PATIENCE, &format!("{wanted:?} followed"), || {
            let peers = self.wanted()?;
            let followed =
                |peer: &Ipv4Addr| peers.get(peer).is_some_and(|p| p.origin == Origin::Follow);
            ensure!(
                peers.len() == wanted.len() && wanted.iter().all(followed),
                "{peers:?}"
            );
            anyhow::Ok(())
        })
    }

    /// Each peer's session, by its generation: another one is another session. (Whether it stays Up
    /// is a matter of how busy the machine is, too.)
    pub(crate) fn sessions(&self) -> Result<BTreeMap<Ipv4Addr, u32>> {
        let entries = self.entries()?;
        Ok(entries
            .iter()
            .map(|entry| (entry.key.peer.into(), entry.generation))
            .collect())
    }

    /// Every route there is, ours included.
    pub(crate) fn table(&self) -> Result<String> {
        self.bed.here.ip("-d route show table all")
    }
}

fn start(home: Home, bed: &Bed, arguments: &[&str]) -> Result<Agent> {
    let mut all = vec!["--interface", INTERFACE];
    all.extend(["--tx-interval", INTERVAL, "--rx-interval", INTERVAL]);
    let mult = DETECT_MULT.to_string();
    all.extend(["--detect-mult", &mult]);
    all.extend(arguments);
    Agent::start_in(home, &bed.here, &all)
}

/// Peers at the far end that ask for both of our addresses.
fn far_side(bed: &Bed) -> Result<Vec<UdpPeer>> {
    bed.there
        .ip(&format!("route add {ALLOCATED} dev {INTERFACE}"))?;
    let mut peers = Vec::new();
    for address in PEERS {
        bed.there
            .ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
        let peer = bed.there.run(|| UdpPeer::spawn(far_end(address)))?;
        peer.add_session(HERE);
        peer.add_session(ALLOCATED);
        peers.push(peer);
    }
    Ok(peers)
}

fn far_end(address: Ipv4Addr) -> UdpPeerConfig {
    let mut config = UdpPeerConfig {
        rules: Rules::Deployed,
        ..UdpPeerConfig::new(address)
    };
    config.timers.desired_min_tx_us = INTERVAL_US;
    config.timers.required_min_rx_us = INTERVAL_US;
    config.timers.detect_mult = DETECT_MULT;
    config.timers.backoff_cap_us = 4 * INTERVAL_US;
    config
}
