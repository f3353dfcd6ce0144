//! An agent that follows, plain peers at the far end, and routes that somebody else makes.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::map::{Origin, Peer, PeerKey, SessionEntry};
use dz_common::packet::State;
use dz_common::session::Mode;
use dz_tests::agent::{Agent, Home, program};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Requirement;
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];
/// Peers at the far end.
pub(crate) const PEERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(10, 9, 0, 2),
    Ipv4Addr::new(10, 9, 0, 3),
];
/// A second address of ours.
pub(crate) const ALLOCATED: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// What tells that everything before it has been seen.
const SENTINEL: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);

const INTERVAL: &str = "100ms";
const INTERVAL_US: u32 = 100_000;
/// Three seconds: a busy machine takes nobody Down.
const DETECT_MULT: &str = "30";
const PEERS_MULT: u8 = 30;

pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) agent: Agent,
    pub(crate) peers: Vec<UdpPeer>,
}

impl Scene {
    /// With an agent that has these further arguments.
    pub(crate) fn new(label: &str, arguments: &[&str]) -> Result<Self> {
        let (bed, peers) = prepare(label)?;
        let agent = Agent::start_in(Home::new()?, &bed.here, &words(arguments))?;
        Ok(Self { bed, agent, peers })
    }

    /// The same with fault hooks.
    pub(crate) fn with_faults(label: &str, arguments: &[&str]) -> Result<Self> {
        let (bed, peers) = prepare(label)?;
        let agent = Agent::start_with_faults(Home::new()?, &bed.here, &words(arguments))?;
        Ok(Self { bed, agent, peers })
    }

    /// An agent that is there already, on a bed that is new.
    pub(crate) fn join(bed: Bed, agent: Agent) -> Result<Self> {
        let peers = furnish(&bed)?;
        Ok(Self { bed, agent, peers })
    }

    /// The plain peer at an address.
    pub(crate) fn peer(&self, address: Ipv4Addr) -> Result<&UdpPeer> {
        let at = PEERS.iter().position(|peer| *peer == address);
        at.and_then(|at| self.peers.get(at)).context("no such peer")
    }

    /// Has a plain peer say that it is passive; it knows nothing of its sessions before.
    pub(crate) fn make_passive(&mut self, address: Ipv4Addr) -> Result<()> {
        let at = PEERS.iter().position(|peer| *peer == address);
        let at = at.context("no such peer")?;
        drop(self.peers.remove(at)); // it holds the port
        let mut config = far_end(address);
        config.timers.mode = Mode::Passive;
        let peer = self.bed.there.run(|| UdpPeer::spawn(config))?;
        peer.add_session(HERE);
        self.peers.insert(at, peer);
        Ok(())
    }

    /// Ends an agent that leaves the kernel part to the next one.
    pub(crate) fn left_alone(agent: Agent) -> Result<Home> {
        agent.end(Signal::SIGUSR2)
    }

    /// Runs these lines as one batch of `ip`.
    pub(crate) fn batch(&self, lines: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), lines)?;
        self.bed
            .here
            .ip(&format!("-batch {}", file.path().display()))?;
        Ok(())
    }

    /// Does something while the agent stands still.
    pub(crate) fn frozen(mut self, meanwhile: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        self.agent.process().freeze()?;
        let done = meanwhile(&self);
        self.agent.process().signal(Signal::SIGCONT)?;
        done.map(|()| self)
    }

    /// Waits until the agent has acted on every notification so far: they come in order.
    pub(crate) fn settled(&self) -> Result<()> {
        let peers = self.wanted()?;
        ensure!(!peers.contains_key(&SENTINEL), "still there");
        self.route(&format!(
            "add {SENTINEL} dev {INTERFACE} proto bgp src {HERE}"
        ))?;
        self.until_wanted(SENTINEL, true)?;
        self.route(&format!("delete {SENTINEL} dev {INTERFACE} proto bgp"))?;
        self.until_wanted(SENTINEL, false)?;
        eventually(PATIENCE, "end of its session", || {
            let there = self.sessions()?.contains_key(&SENTINEL);
            (!there).then_some(()).context("still there")
        })
    }

    fn until_wanted(&self, peer: Ipv4Addr, there: bool) -> Result<()> {
        eventually(PATIENCE, "what was changed last", || {
            let wanted = self.wanted()?;
            ensure!(wanted.contains_key(&peer) == there, "{wanted:?}");
            anyhow::Ok(())
        })
    }

    /// Has the agent look at everything, and waits until it has: the second of two checks that show
    /// an address come and go has begun, so that the first is over.
    pub(crate) fn full_check(&self) -> Result<()> {
        for (word, there) in [("add", true), ("delete", false)] {
            self.bed
                .here
                .ip(&format!("address {word} {SENTINEL}/32 dev {INTERFACE}"))?;
            eventually(PATIENCE, "a full check", || {
                let status = self.agent.get("/v1/status")?;
                let locals = status["interfaces"][0]["locals"].as_array();
                let locals = locals.context("no addresses")?;
                let seen = locals.iter().any(|local| *local == SENTINEL.to_string());
                ensure!(seen == there, "{status}");
                anyhow::Ok(())
            })?;
        }
        Ok(())
    }

    /// Waits until the table of sessions has these words.
    pub(crate) fn until_shown(&self, words: &str) -> Result<()> {
        eventually(PATIENCE, words, || {
            let shown = self.agent.cli(&["sessions"])?;
            ensure!(shown.contains(words), "{shown}");
            anyhow::Ok(())
        })
    }

    /// Waits until the log has these words: what the agent has written comes through a pipe.
    pub(crate) fn logged(&mut self, words: &str) -> Result<()> {
        let process = self.agent.process();
        eventually(PATIENCE, &format!("in the log: {words}"), || {
            process.log().contains(words).then_some(())
        })
    }

    /// What a command that is to be refused says.
    pub(crate) fn refused(&self, words: &[&str]) -> Result<String> {
        let output = self.agent.home().command(words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(8), "{words:?}: {output:?}");
        Ok(said)
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
        let Self { bed, agent, peers } = self;
        let agent = Agent::start_in(home(agent)?, &bed.here, &words(arguments))?;
        Ok(Self { bed, agent, peers })
    }

    /// The same after a crash and a `purge`.
    pub(crate) fn purged(self, arguments: &[&str]) -> Result<Self> {
        let Self { bed, agent, peers } = self;
        let home = agent.crash()?;
        let mut command = Command::new(program()?);
        command.args(["purge", "--interface", INTERFACE, "--pin-dir"]);
        let output = bed.here.output(command.arg(home.pin_dir()))?;
        ensure!(output.status.success(), "{output:?}");
        let agent = Agent::start_in(home, &bed.here, &words(arguments))?;
        Ok(Self { bed, agent, peers })
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

fn words<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["--interface", INTERFACE];
    words.extend(["--tx-interval", INTERVAL, "--rx-interval", INTERVAL]);
    words.extend(["--detect-mult", DETECT_MULT]);
    words.extend(arguments);
    words
}

fn prepare(label: &str) -> Result<(Bed, Vec<UdpPeer>)> {
    let bed = Bed::new(label, Duration::ZERO)?;
    let peers = furnish(&bed)?;
    Ok((bed, peers))
}

/// A second address of ours, and peers at the far end that ask for both.
fn furnish(bed: &Bed) -> Result<Vec<UdpPeer>> {
    bed.here
        .ip(&format!("address add {ALLOCATED}/32 dev {INTERFACE}"))?;
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
    config.timers.detect_mult = PEERS_MULT;
    config.timers.backoff_cap_us = 4 * INTERVAL_US;
    config
}
