//! One agent with two interfaces that have the same addresses at both ends, and a plain peer behind
//! each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;
use dz_tests::wire::TunWire;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];
/// Our ends.
pub(crate) const NAMES: [&str; 2] = ["dz0", "dz1"];
const INTERVAL_US: u32 = 100_000;
const INTERVAL: &str = "100ms";

/// A wire to a far end of its own.
pub(crate) struct Side {
    pub(crate) there: Netns,
    pub(crate) wire: TunWire,
    pub(crate) _peer: UdpPeer,
}

/// The scene.
pub(crate) struct Scene {
    pub(crate) here: Netns,
    pub(crate) sides: [Side; 2],
    pub(crate) agent: Agent,
}

impl Scene {
    /// Both peers ask for us; nothing is connected yet.
    pub(crate) fn new(label: &str) -> Result<Self> {
        let here = Netns::new(label)?;
        let sides = [
            Side::new(&here, NAMES[0], label)?,
            Side::new(&here, NAMES[1], label)?,
        ];
        let mut arguments = vec!["--tx-interval", INTERVAL, "--rx-interval", INTERVAL];
        arguments.extend(["--interface", NAMES[0], "--interface", NAMES[1]]);
        arguments.extend(bed::PATIENTLY);
        let agent = Agent::start_in(Home::new()?, &here, &arguments)?;
        Ok(Self { here, sides, agent })
    }

    /// Connects to the peer by one of the interfaces.
    pub(crate) fn connect(&self, interface: &str) -> Result<()> {
        let (here, there) = (HERE.to_string(), THERE.to_string());
        let words = ["connect", &there, "--local", &here, "--interface"];
        self.agent.cli(&[&words[..], &[interface]].concat())?;
        Ok(())
    }

    /// The session by one of the interfaces.
    pub(crate) fn session(&self, interface: &str) -> Result<SessionEntry> {
        let ifindex = self.here.ifindex(interface)?;
        let entries = bed::entries(self.agent.home())?;
        let found = entries
            .into_iter()
            .find(|entry| entry.key.ifindex == ifindex);
        found.with_context(|| format!("no session by {interface}"))
    }

    /// Waits until the session by one of the interfaces is in a state.
    pub(crate) fn until(&self, interface: &str, state: State) -> Result<SessionEntry> {
        let what = format!("session by {interface} {}", state.name());
        eventually(PATIENCE, &what, || {
            let entry = self.session(interface)?;
            ensure!(entry.session.state == state, "{:?}", entry.session);
            anyhow::Ok(entry)
        })
    }

    /// Waits until our route to the peer is by this interface.
    pub(crate) fn until_route_by(&self, interface: &str) -> Result<()> {
        let what = format!("the route by {interface}");
        eventually(PATIENCE, &what, || {
            let shown = bed::route_to(&self.here, THERE)?;
            ensure!(
                shown.lines().count() == 1 && shown.contains(&format!("dev {interface} ")),
                "{shown:?}"
            );
            anyhow::Ok(())
        })
    }
}

impl Side {
    fn new(here: &Netns, name: &str, label: &str) -> Result<Self> {
        let there = Netns::new(label)?;
        let wire = wire(here, name, &there)?;
        let timers = Timers {
            desired_min_tx_us: INTERVAL_US,
            required_min_rx_us: INTERVAL_US,
            detect_mult: bed::PATIENT_MULT,
            ..Timers::DEFAULT
        };
        let config = UdpPeerConfig {
            timers,
            ..UdpPeerConfig::new(THERE)
        };
        let peer = there.run(|| UdpPeer::spawn(config)).context("UDP peer")?;
        peer.add_session(HERE);
        Ok(Self {
            there,
            wire,
            _peer: peer,
        })
    }
}

/// A wire between an interface of ours and a far end.
pub(crate) fn wire(here: &Netns, name: &str, there: &Netns) -> Result<TunWire> {
    let near = Tun::new(here, name, &["169.254.7.0/31"])?;
    let far = Tun::new(there, INTERFACE, &["169.254.7.1/31"])?;
    Ok(TunWire::connect(near, far, Duration::ZERO)?)
}
