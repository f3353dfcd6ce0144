//! One session that is Up, whose agent is dead: every row begins here.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::{PeerKey, SessionEntry};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::pinned::Pinned;
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

use crate::world::{DETECT_MULT, INTERVAL_MS};

/// The scene; [`Stage::start`] is the next start.
pub(super) struct Stage {
    pub(super) bed: Bed,
    pub(super) peer: UdpPeer,
    pub(super) home: Home,
    /// The session as the agent left it.
    pub(super) entry: SessionEntry,
}

/// After the next start.
pub(super) struct Started {
    pub(super) bed: Bed,
    pub(super) peer: UdpPeer,
    pub(super) agent: Agent,
    pub(super) before: SessionEntry,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// With further words for `connect`.
    pub(super) fn with(words: &[&str]) -> Result<Self> {
        let bed = Bed::new("row", Duration::ZERO)?;
        let agent = start(Home::new()?, &bed)?;
        let (here, there) = (HERE.to_string(), THERE.to_string());
        let mut connect = vec!["connect", &there, "--local", &here];
        connect.extend(words);
        agent.cli(&connect)?;
        let mut config = UdpPeerConfig {
            rules: Rules::Deployed,
            ..UdpPeerConfig::new(THERE)
        };
        config.timers.desired_min_tx_us = INTERVAL_MS * 1_000;
        config.timers.required_min_rx_us = INTERVAL_MS * 1_000;
        // What the far end hears is looked at, not how long it waits: 25 s, longer than a start takes.
        config.timers.detect_mult = 250;
        config.timers.backoff_cap_us = 400_000;
        let peer = bed.there.run(|| UdpPeer::spawn(config))?;
        peer.add_session(HERE);
        bed::peer_until(&peer, State::Up)?;
        bed::until_route(&bed.here, THERE, true)?;
        let entry = bed::until(agent.home(), State::Up)?;
        let home = agent.crash()?;
        Ok(Self {
            bed,
            peer,
            home,
            entry,
        })
    }

    pub(super) fn maps(&self) -> Result<Pinned> {
        Pinned::open(self.home.pin_dir())
    }

    pub(super) fn delete_route(&self) -> Result<()> {
        let line = format!("route delete {THERE} dev {INTERFACE} proto 144");
        self.bed.here.ip(&line).map(drop)
    }

    pub(super) fn start(self) -> Result<Started> {
        let agent = start(self.home, &self.bed)?;
        Ok(Started {
            bed: self.bed,
            peer: self.peer,
            agent,
            before: self.entry,
        })
    }
}

impl Started {
    /// One peer, one session, Up at both ends, its gate and its route.
    pub(super) fn up(&mut self) -> Result<SessionEntry> {
        let entry = bed::until(self.agent.home(), State::Up)?;
        bed::peer_until(&self.peer, State::Up)?;
        self.settled(1, 1)?;
        let shown = bed::route_to(&self.bed.here, THERE)?;
        ensure!(shown.contains(&format!("src {HERE}")), "{shown}");
        Ok(entry)
    }

    /// The same session as before, which has noticed nothing.
    pub(super) fn untouched(&mut self) -> Result<()> {
        let (before, now) = (self.before, self.up()?);
        ensure!(
            now.generation == before.generation
                && now.session.transitions == before.session.transitions,
            "{before:?}, now {now:?}"
        );
        Ok(())
    }

    /// Nothing of the peer is left.
    pub(super) fn gone(&mut self) -> Result<()> {
        self.settled(0, 0)?;
        let shown = self.agent.json(&["sessions", "--json"])?;
        let empty = |field: &str| shown[field].as_array().is_some_and(Vec::is_empty);
        ensure!(empty("sessions") && empty("parked"), "{shown}");
        self.connects_again()
    }

    /// Nothing stands in the way of a new session.
    pub(super) fn connects_again(&mut self) -> Result<()> {
        bed::connect(&self.agent)?;
        self.up().map(drop)
    }

    /// So many peers, and so many sessions with a route each.
    pub(super) fn settled(&self, peers: usize, sessions: usize) -> Result<()> {
        eventually(PATIENCE, "peers, sessions and routes", || {
            let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
            let found = (maps.peers()?.len(), maps.sessions()?.len());
            let shown = self.bed.here.ip("route show table all proto 144")?;
            let routes = shown.lines().count();
            ensure!(
                found == (peers, sessions) && routes == sessions,
                "{found:?}, {routes} routes"
            );
            anyhow::Ok(())
        })
    }

    pub(super) fn log_has(&mut self, words: &str) -> bool {
        self.agent.process().log().contains(words)
    }

    pub(super) fn stop(self) -> Result<Home> {
        self.agent.end(Signal::SIGTERM)
    }
}

/// The arguments of every agent here.
pub(super) fn arguments() -> Vec<String> {
    let interval = format!("{INTERVAL_MS}ms");
    let mult = DETECT_MULT.to_string();
    let mut arguments = vec!["--interface", INTERFACE, "--max-sessions", "2048"];
    arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
    arguments.extend(["--detect-mult", &mult]);
    arguments.into_iter().map(str::to_owned).collect()
}

/// An agent, ready.
pub(super) fn start(home: Home, bed: &Bed) -> Result<Agent> {
    let mut agent = spawn(home, bed)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// An agent that is starting.
pub(super) fn spawn(home: Home, bed: &Bed) -> Result<Agent> {
    let arguments = arguments();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Agent::spawn_in(home, &bed.here, &arguments)
}

/// The key of the peer of a session.
pub(super) fn peer_key(peer: Ipv4Addr) -> PeerKey {
    let mut ifname = [0; 16];
    ifname[..INTERFACE.len()].copy_from_slice(INTERFACE.as_bytes());
    PeerKey {
        ifname,
        peer: peer.octets(),
    }
}

/// What the far end has been through since then.
pub(super) fn changes(peer: &UdpPeer) -> Result<usize> {
    Ok(peer.session(HERE).context("no session")?.changes.len())
}
