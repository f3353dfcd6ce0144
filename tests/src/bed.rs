//! The usual scene: two namespaces, `doublezero0` in each, and a wire between them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::SessionEntry;
use dz_common::packet::{Packet, State};
use dz_common::session::Timers;

use crate::agent::{Agent, Home};
use crate::frame::parse_udp;
use crate::netns::Netns;
use crate::tun::Tun;
use crate::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use crate::wait::eventually;
use crate::wire::{Direction, Record, TunWire};

/// The interface at both ends.
pub const INTERFACE: &str = "doublezero0";
/// Address of our end.
pub const HERE: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 0);
/// Address of the far end.
pub const THERE: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 1);
/// Detection multiplier of sessions that must not go Down because a machine stood still for a moment.
pub const PATIENT_MULT: u8 = 20;
/// The same for an agent: `--detect-mult` and its value.
pub const PATIENTLY: [&str; 2] = ["--detect-mult", "20"];
/// For what happens at once, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Two namespaces and the wire between them; its first end is `here`.
#[derive(Debug)]
pub struct Bed {
    /// Our end.
    pub here: Netns,
    /// The far end.
    pub there: Netns,
    /// The wire.
    pub wire: TunWire,
}

impl Bed {
    /// Makes one; `delay` is one way.
    ///
    /// # Errors
    /// No privilege, or no TUN devices.
    pub fn new(label: &str, delay: Duration) -> anyhow::Result<Self> {
        let (here, there) = (Netns::new(label)?, Netns::new(label)?);
        let wire = wire(&here, &there, delay)?;
        Ok(Self { here, there, wire })
    }

    /// Creates both devices anew, with new indices.
    ///
    /// # Errors
    /// The devices cannot be created: they are still there, say.
    pub fn join(here: Netns, there: Netns) -> anyhow::Result<Self> {
        let wire = wire(&here, &there, Duration::ZERO)?;
        Ok(Self { here, there, wire })
    }

    /// An agent at our end that sends and expects a packet every `interval_ms`.
    ///
    /// # Errors
    /// It does not start.
    pub fn agent(&self, interval_ms: u32) -> anyhow::Result<Agent> {
        agent(Home::new()?, &self.here, interval_ms)
    }

    /// The same, with these arguments, too.
    ///
    /// # Errors
    /// It does not start.
    pub fn agent_with(&self, interval_ms: u32, more: &[&str]) -> anyhow::Result<Agent> {
        agent_with(&self.here, interval_ms, more)
    }

    /// The same with fault hooks ([`Home::faults`]).
    ///
    /// # Errors
    /// It does not start.
    pub fn agent_with_faults(&self, interval_ms: u32) -> anyhow::Result<Agent> {
        let interval = format!("{interval_ms}ms");
        let mut arguments = vec!["--interface", INTERFACE];
        arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        Agent::start_with_faults(Home::new()?, &self.here, &arguments)
    }

    /// An agent without them at the far end.
    ///
    /// # Errors
    /// It does not start.
    pub fn far_agent(&self, interval_ms: u32) -> anyhow::Result<Agent> {
        agent(Home::new()?, &self.there, interval_ms)
    }

    /// The same, with these arguments, too.
    ///
    /// # Errors
    /// It does not start.
    pub fn far_agent_with(&self, interval_ms: u32, more: &[&str]) -> anyhow::Result<Agent> {
        agent_with(&self.there, interval_ms, more)
    }

    /// A plain UDP peer at the far end, with a session to us.
    ///
    /// # Errors
    /// Its port cannot be bound.
    pub fn peer(&self, rules: Rules, interval_ms: u32) -> anyhow::Result<UdpPeer> {
        let peer = self.peer_at(THERE, rules, interval_ms)?;
        peer.add_session(HERE);
        Ok(peer)
    }

    /// The same, and it does not go Down for a pause of this machine's: with [`PATIENT_MULT`].
    ///
    /// # Errors
    /// Its port cannot be bound.
    pub fn patient_peer(&self, rules: Rules, interval_ms: u32) -> anyhow::Result<UdpPeer> {
        let peer = self.peer_with(THERE, rules, interval_ms, PATIENT_MULT)?;
        peer.add_session(HERE);
        Ok(peer)
    }

    /// A plain UDP peer at an address of the far end, without sessions. It follows its own clock.
    ///
    /// # Errors
    /// Its port cannot be bound.
    pub fn peer_at(
        &self,
        local: Ipv4Addr,
        rules: Rules,
        interval_ms: u32,
    ) -> anyhow::Result<UdpPeer> {
        self.peer_with(local, rules, interval_ms, Timers::DEFAULT.detect_mult)
    }

    fn peer_with(
        &self,
        local: Ipv4Addr,
        rules: Rules,
        interval_ms: u32,
        detect_mult: u8,
    ) -> anyhow::Result<UdpPeer> {
        let interval_us = interval_ms * 1_000;
        let timers = Timers {
            desired_min_tx_us: interval_us,
            required_min_rx_us: interval_us,
            // Not the deployed 60 s: what a slow machine makes them miss must not keep tests waiting.
            backoff_cap_us: 1_000_000,
            detect_mult,
            ..Timers::DEFAULT
        };
        let config = UdpPeerConfig {
            timers,
            rules,
            ..UdpPeerConfig::new(local)
        };
        let peer = self.there.run(|| UdpPeer::spawn(config));
        peer.context("UDP peer")
    }
}

fn wire(here: &Netns, there: &Netns, delay: Duration) -> anyhow::Result<TunWire> {
    let a = Tun::new(here, INTERFACE, &["169.254.7.0/31"])?;
    let b = Tun::new(there, INTERFACE, &["169.254.7.1/31"])?;
    Ok(TunWire::connect(a, b, delay)?)
}

/// Starts an agent in a home, with one interval for both directions.
///
/// # Errors
/// It does not start.
pub fn agent(home: Home, netns: &Netns, interval_ms: u32) -> anyhow::Result<Agent> {
    let interval = format!("{interval_ms}ms");
    let mut arguments = vec!["--interface", INTERFACE];
    arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
    Agent::start_in(home, netns, &arguments)
}

fn agent_with(netns: &Netns, interval_ms: u32, more: &[&str]) -> anyhow::Result<Agent> {
    let interval = format!("{interval_ms}ms");
    let mut arguments = vec!["--interface", INTERFACE];
    arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
    arguments.extend(more);
    Agent::start(netns, &arguments)
}

/// Connects an agent at our end to the far end's address.
///
/// # Errors
/// What the agent says.
pub fn connect(agent: &Agent) -> anyhow::Result<()> {
    let (here, there) = (HERE.to_string(), THERE.to_string());
    agent.cli(&["connect", &there, "--local", &here])?;
    Ok(())
}

/// Connects an agent at the far end to our address.
///
/// # Errors
/// What the agent says.
pub fn connect_back(agent: &Agent) -> anyhow::Result<()> {
    let (here, there) = (HERE.to_string(), THERE.to_string());
    agent.cli(&["connect", &here, "--local", &there])?;
    Ok(())
}

/// The sessions in an agent's pinned map, whatever the agent does at present.
///
/// # Errors
/// There is no map.
pub fn entries(home: &Home) -> anyhow::Result<Vec<SessionEntry>> {
    Ok(MapReader::from_pins(home.pin_dir())?.sessions()?)
}

/// The one session in an agent's pinned map.
///
/// # Errors
/// There is none, or several.
pub fn entry(home: &Home) -> anyhow::Result<SessionEntry> {
    let mut entries = entries(home)?;
    ensure!(entries.len() == 1, "{} sessions", entries.len());
    entries.pop().context("there is one")
}

/// Waits until the one session in the map is in a state.
///
/// # Errors
/// It is not in time.
pub fn until(home: &Home, state: State) -> anyhow::Result<SessionEntry> {
    eventually(PATIENCE, &format!("session {}", state.name()), || {
        let entry = entry(home)?;
        ensure!(entry.session.state == state, "{:?}", entry.session);
        anyhow::Ok(entry)
    })
}

/// Waits until a session of a plain peer is in a state.
///
/// # Errors
/// It is not in time.
pub fn peer_until(peer: &UdpPeer, state: State) -> anyhow::Result<()> {
    eventually(
        PATIENCE,
        &format!("peer's session {}", state.name()),
        || {
            let session = peer.session(HERE).context("no session")?;
            ensure!(session.session.state == state, "{session:?}");
            anyhow::Ok(())
        },
    )
}

/// What `ip` shows of our routes to an address; empty if there is none.
///
/// # Errors
/// `ip` fails.
pub fn route_to(netns: &Netns, peer: Ipv4Addr) -> anyhow::Result<String> {
    netns.ip(&format!("route show proto 144 to exact {peer}"))
}

/// Waits until there is a route of ours to an address, or until there is none.
///
/// # Errors
/// It is not so in time.
pub fn until_route(netns: &Netns, peer: Ipv4Addr, there: bool) -> anyhow::Result<()> {
    let what = if there { "a route" } else { "no route" };
    eventually(PATIENCE, &format!("{what} to {peer}"), || {
        let shown = route_to(netns, peer)?;
        ensure!(shown.is_empty() != there, "{shown:?}");
        anyhow::Ok(())
    })
}

/// The liveness packets that have entered a wire in one direction, in order.
pub fn liveness(wire: &TunWire, direction: Direction) -> Vec<(Record, Packet)> {
    let packet = |record: Record| {
        let payload = parse_udp(&record.packet)?.payload;
        Some((record, Packet::decode(&payload).ok()?))
    };
    let records = wire.records().into_iter();
    records
        .filter(|record| record.direction == direction)
        .filter_map(packet)
        .collect()
}
