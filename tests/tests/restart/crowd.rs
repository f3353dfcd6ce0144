//! A thousand peers with the deployed rules, 300 ms × 3, over one interface.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE};
use dz_tests::machine;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;
use dz_tests::wire::TunWire;

/// How many, where not said otherwise; and on a processor that is emulated.
const PEERS: [u16; 2] = [1_000, 100];
/// The interface of a second tunnel.
pub(crate) const SECOND: &str = "doublezero1";
/// How often both sides send, ms. The verifier keeps an emulated processor busy for seconds.
pub(crate) fn interval_ms() -> u32 {
    if machine::is_emulated() { 1_000 } else { 300 }
}
/// Detection multiplier of both sides: some seconds, for machines that stand still for a moment.
pub(crate) const DETECT_MULT: u8 = 10;
/// The same for an agent.
pub(crate) const MULTIPLIER: [&str; 2] = ["--detect-mult", "10"];
/// For a thousand of something, on a machine that may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A tunnel in a bed, and the peers at its far end.
pub(crate) struct Crowd {
    pub(crate) bed: Rc<Bed>,
    pub(crate) peers: UdpPeer,
    pub(crate) interface: &'static str,
    /// Our address.
    pub(crate) local: Ipv4Addr,
    /// What the peers' addresses start with.
    network: [u8; 2],
    count: u16,
    /// Of a second tunnel.
    _wire: Option<TunWire>,
}

impl Crowd {
    pub(crate) fn new(label: &str) -> Result<Self> {
        Self::with(label, PEERS[usize::from(machine::is_emulated())])
    }

    /// One of another size.
    pub(crate) fn with(label: &str, count: u16) -> Result<Self> {
        let bed = Rc::new(Bed::new(label, Duration::ZERO)?);
        Self::over(bed, (INTERFACE, HERE), [10, 9], count, None)
    }

    /// Another one behind a tunnel of its own between the same two namespaces.
    pub(crate) fn beside(&self, count: u16) -> Result<Self> {
        let bed = Rc::clone(&self.bed);
        let here = Tun::new(&bed.here, SECOND, &["169.254.8.0/31"])?;
        let there = Tun::new(&bed.there, SECOND, &["169.254.8.1/31"])?;
        let wire = TunWire::connect(here, there, Duration::ZERO)?;
        let end = (SECOND, Ipv4Addr::new(169, 254, 8, 0));
        Self::over(bed, end, [10, 10], count, Some(wire))
    }

    fn over(
        bed: Rc<Bed>,
        (interface, local): (&'static str, Ipv4Addr),
        network: [u8; 2],
        count: u16,
        wire: Option<TunWire>,
    ) -> Result<Self> {
        // A whole network as one's own: a thousand addresses would take a thousand times as long.
        let [high, low] = network;
        let addresses = format!("route add local {high}.{low}.0.0/16 dev lo");
        bed.there.ip(&addresses)?;
        for netns in [&bed.here, &bed.there] {
            // The wire's other end is a thread that has to be scheduled; a burst of all must fit.
            netns.ip(&format!("link set {interface} txqueuelen 10000"))?;
        }
        let config = UdpPeerConfig {
            crowd: Some(local),
            device: Some(interface.to_owned()),
            timers: Timers {
                desired_min_tx_us: interval_ms() * 1_000,
                required_min_rx_us: interval_ms() * 1_000,
                detect_mult: DETECT_MULT,
                // Shorter than the deployed minute, for tests that wait for peers to come back.
                backoff_cap_us: 2_000_000,
                ..Timers::DEFAULT
            },
            ..UdpPeerConfig::new(Ipv4Addr::UNSPECIFIED)
        };
        let peers = bed.there.run(|| UdpPeer::spawn(config)).context("peers")?;
        Ok(Self {
            bed,
            peers,
            interface,
            local,
            network,
            count,
            _wire: wire,
        })
    }

    /// The peers' addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let [a, b] = self.network;
        (1..=self.count).map(move |number| {
            let [c, d] = number.to_be_bytes();
            Ipv4Addr::new(a, b, c, d)
        })
    }

    /// Whether an address is one of the peers'.
    pub(crate) fn has(&self, address: &[u8; 4]) -> bool {
        address.starts_with(&self.network)
    }

    /// An agent in a home where another one may have lived.
    pub(crate) fn start(&self, home: Home) -> Result<Agent> {
        let interval = format!("{}ms", interval_ms());
        let mut arguments = vec!["--interface", INTERFACE];
        arguments.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        arguments.extend(MULTIPLIER);
        Agent::start_in(home, &self.bed.here, &arguments)
    }

    /// Connects an agent to all of them, and waits until all are Up.
    pub(crate) fn connect(&self, agent: &Agent) -> Result<()> {
        self.connect_some(agent)?;
        self.until_up(agent.home())
    }

    /// Connects an agent to all of them, beside those of other tunnels.
    pub(crate) fn connect_some(&self, agent: &Agent) -> Result<()> {
        let (local, interface) = (self.local.to_string(), self.interface);
        let lines = self.addresses().fold(String::new(), |mut lines, peer| {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{peer}");
            lines
        });
        let words = [
            "connect",
            "--interface",
            interface,
            "--local",
            &local,
            "--file",
            "-",
        ];
        let output = agent.home().command_reading(&words, &lines)?;
        ensure!(output.status.success(), "{output:?}");
        for peer in self.addresses() {
            if self.peers.session(peer).is_none() {
                self.peers.add_session(peer);
            }
        }
        Ok(())
    }

    /// Waits until all are Up at both ends, with their routes.
    pub(crate) fn until_up(&self, home: &Home) -> Result<()> {
        eventually(PATIENCE, "all Up at both ends", || {
            let ours = bed::entries(home)?;
            let up = |state: State| state == State::Up;
            let ours_up = ours.iter().filter(|entry| up(entry.session.state));
            let ours_up = ours_up.count();
            let theirs = self.peers.sessions();
            let theirs_up = theirs.iter().filter(|theirs| up(theirs.session.state));
            let theirs_up = theirs_up.count();
            let routes = self.routes()?;
            let all = [ours.len(), ours_up, theirs.len(), theirs_up, routes];
            ensure!(
                all == [usize::from(self.count); 5],
                "sessions, Up, of the peers, Up, routes: {all:?}"
            );
            anyhow::Ok(())
        })
    }

    /// How many routes of ours there are over the tunnel.
    pub(crate) fn routes(&self) -> Result<usize> {
        let interface = self.interface;
        let here = &self.bed.here;
        let shown = here.ip(&format!("route show dev {interface} proto 144"))?;
        Ok(shown.lines().count())
    }
}
