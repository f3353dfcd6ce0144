//! A thousand peers with the deployed rules, 300 ms × 3, over one interface.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE};
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;

pub(crate) const PEERS: u16 = 1_000;
pub(crate) const INTERVAL_MS: u32 = 300;
/// For a thousand of something, on a machine that may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The bed, and the peers at its far end.
pub(crate) struct Crowd {
    pub(crate) bed: Bed,
    pub(crate) peers: UdpPeer,
}

impl Crowd {
    pub(crate) fn new(label: &str) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        // A whole network as one's own: a thousand addresses would take a thousand times as long.
        bed.there.ip("route add local 10.9.0.0/16 dev lo")?;
        for netns in [&bed.here, &bed.there] {
            // The wire's other end is a thread that has to be scheduled; a burst of all must fit.
            netns.ip(&format!("link set {INTERFACE} txqueuelen 10000"))?;
        }
        let config = UdpPeerConfig {
            crowd: Some(HERE),
            timers: Timers {
                desired_min_tx_us: INTERVAL_MS * 1_000,
                required_min_rx_us: INTERVAL_MS * 1_000,
                // Shorter than the deployed minute, for tests that wait for peers to come back.
                backoff_cap_us: 2_000_000,
                ..Timers::DEFAULT
            },
            ..UdpPeerConfig::new(Ipv4Addr::UNSPECIFIED)
        };
        let peers = bed.there.run(|| UdpPeer::spawn(config)).context("peers")?;
        Ok(Self { bed, peers })
    }

    /// The peers' addresses.
    pub(crate) fn addresses() -> impl Iterator<Item = Ipv4Addr> {
        (1..=PEERS).map(|number| {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(10, 9, high, low)
        })
    }

    /// An agent in a home where another one may have lived.
    pub(crate) fn start(&self, home: Home) -> Result<Agent> {
        bed::agent(home, &self.bed.here, INTERVAL_MS)
    }

    /// Connects an agent to all of them, and waits until all are Up.
    pub(crate) fn connect(&self, agent: &Agent) -> Result<()> {
        let local = HERE.to_string();
        let lines = Self::addresses().fold(String::new(), |mut lines, peer| {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{peer}");
            lines
        });
        let words = ["connect", "--local", &local, "--file", "-"];
        let output = agent.home().command_reading(&words, &lines)?;
        ensure!(output.status.success(), "{output:?}");
        for peer in Self::addresses() {
            if self.peers.session(peer).is_none() {
                self.peers.add_session(peer);
            }
        }
        self.until_up(agent.home())
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
                all == [usize::from(PEERS); 5],
                "sessions, Up, of the peers, Up, routes: {all:?}"
            );
            anyhow::Ok(())
        })
    }

    pub(crate) fn routes(&self) -> Result<usize> {
        let shown = self.bed.here.ip("route show proto 144")?;
        Ok(shown.lines().count())
    }
}
