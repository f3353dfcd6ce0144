//! A host with a tunnel and two NICs, and peers behind the tunnel that ask for its public address.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::{Counter, Counters};
use dz_common::map::SessionEntry;
use dz_common::packet::{Packet, State};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Requirement;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use dz_tests::wire::{Direction, TunWire};
use etherparse::Ipv4HeaderSlice;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 3] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("ethtool"),
];
/// This host's address, which its NIC holds.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Another one of the same network.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// The far end of the tunnel's link.
pub(crate) const GATEWAY: Ipv4Addr = THERE;
/// Peers behind the tunnel.
pub(crate) const PEERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(203, 0, 113, 8)];
pub(crate) const PEER: Ipv4Addr = PEERS[0];
/// The NICs. Both lead to the far host, by a router of their own.
pub(crate) const NICS: [&str; 2] = ["nic0", "nic1"];
/// Those routers.
pub(crate) const ROUTERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(192, 0, 2, 254),
    Ipv4Addr::new(198, 51, 100, 254),
];
/// The address of the second NIC.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// How often both sides send, ms.
const INTERVAL_MS: u32 = 100;
/// Three seconds: a busy machine takes nobody Down.
const DETECT_MULT: &str = "30";

/// What counts transmissions that failed.
const FAILURES: [Counter; 3] = [
    Counter::TxFailed,
    Counter::TxNoNeighbour,
    Counter::RxAnswerFailed,
];

pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) agent: Agent,
    pub(crate) peers: Vec<UdpPeer>,
}

impl Scene {
    /// The agent has these further arguments, nothing is connected, and both of our addresses are
    /// asked for.
    pub(crate) fn new(label: &str, arguments: &[&str]) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        nics(&bed)?;
        for local in [PUBLIC, OTHER] {
            bed.there
                .ip(&format!("route add {local}/32 dev {INTERFACE}"))?;
        }
        let mut peers = Vec::new();
        for address in PEERS {
            bed.there
                .ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
            let peer = bed.peer_at(address, Rules::Deployed, INTERVAL_MS)?;
            peer.add_session(PUBLIC);
            peer.add_session(OTHER);
            peers.push(peer);
        }
        let agent = Agent::start_in(Home::new()?, &bed.here, &words(arguments))?;
        Ok(Self { bed, agent, peers })
    }

    /// Connects to the first peer from our public address.
    pub(crate) fn connected(label: &str) -> Result<Self> {
        let scene = Self::new(label, &[])?;
        let (peer, public) = (PEER.to_string(), PUBLIC.to_string());
        scene.agent.cli(&["connect", &peer, "--local", &public])?;
        scene.until_up(PEER, PUBLIC)?;
        Ok(scene)
    }

    /// The agent is killed, and after what happens meanwhile the next one starts.
    pub(crate) fn again(
        self,
        meanwhile: impl FnOnce(&Bed, &[UdpPeer]) -> Result<()>,
    ) -> Result<Self> {
        let Self { bed, agent, peers } = self;
        let home = agent.crash()?;
        meanwhile(&bed, &peers)?;
        let agent = Agent::start_in(home, &bed.here, &words(&[]))?;
        Ok(Self { bed, agent, peers })
    }

    pub(crate) fn ip(&self, line: &str) -> Result<String> {
        self.bed.here.ip(line)
    }

    /// Several lines for `ip` in one go: what they change, changes within milliseconds.
    pub(crate) fn batch(&self, lines: &str) -> Result<()> {
        let file = self.agent.home().state_dir().join("batch");
        std::fs::write(&file, lines)?;
        self.ip(&format!("-batch {}", file.display())).map(|_| ())
    }

    pub(crate) fn maps(&self) -> Result<MapReader> {
        Ok(MapReader::from_pins(self.agent.home().pin_dir())?)
    }

    /// The session with a peer.
    pub(crate) fn entry(&self, peer: Ipv4Addr) -> Result<SessionEntry> {
        let entries = bed::entries(self.agent.home())?;
        let mut with_it = entries
            .into_iter()
            .filter(|entry| entry.key.peer == peer.octets());
        with_it.next().context("no session")
    }

    /// Waits until the session with a peer is Up from an address, and no other one is there.
    pub(crate) fn until_up(&self, peer: Ipv4Addr, local: Ipv4Addr) -> Result<SessionEntry> {
        eventually(PATIENCE, &format!("{peer} Up from {local}"), || {
            let entry = self.entry(peer)?;
            let state = entry.session.state;
            ensure!(
                state == State::Up && entry.key.local == local.octets(),
                "{entry:?}"
            );
            anyhow::Ok(entry)
        })
    }

    /// Waits until the route to a peer is this one, whatever stands behind it.
    pub(crate) fn until_route(&self, peer: Ipv4Addr, words: &str) -> Result<()> {
        eventually(PATIENCE, &format!("route to {peer}: {words}"), || {
            let shown = bed::route_to(&self.bed.here, peer)?;
            ensure!(shown.starts_with(&format!("{peer} {words}")), "{shown:?}");
            anyhow::Ok(())
        })
    }

    /// Waits until a peer has no session, and `sessions` says why.
    pub(crate) fn until_parked(&self, peer: Ipv4Addr, reason: &str) -> Result<()> {
        eventually(PATIENCE, &format!("{peer} parked: {reason}"), || {
            let shown = self.agent.json(&["sessions", "--json"])?;
            let parked = shown["parked"].as_array().context("nothing parked")?;
            let mut parked = parked.iter().filter(|one| one["peer"] == peer.to_string());
            let said = parked.next().context("not parked")?["reason"].to_string();
            ensure!(said.contains(reason), "{said}");
            anyhow::Ok(())
        })
    }

    /// The addresses that packets are counted for on the tunnel.
    pub(crate) fn locals(&self) -> Result<BTreeSet<Ipv4Addr>> {
        let locals = self.maps()?.locals()?.into_iter();
        Ok(locals.map(|(key, _)| key.addr.into()).collect())
    }

    /// Has the agent look at everything, and waits until it has: the second of two checks that show
    /// an address come and go has begun, so that the first is over.
    pub(crate) fn full_check(&self) -> Result<()> {
        let sentinel = Ipv4Addr::new(10, 90, 0, 1);
        for (word, there) in [("add", true), ("delete", false)] {
            self.ip(&format!("address {word} {sentinel}/32 dev {INTERFACE}"))?;
            eventually(PATIENCE, "a full check", || {
                let locals = self.locals()?;
                ensure!(locals.contains(&sentinel) == there, "{locals:?}");
                anyhow::Ok(())
            })?;
        }
        Ok(())
    }

    /// What the last full check took, to the nanosecond: another value is another check.
    pub(crate) fn last_check(&self) -> Result<String> {
        let mut stream = UnixStream::connect(self.agent.home().socket())?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("doublezero_liveness_full_check_seconds "));
        Ok(line.with_context(|| text.clone())?.to_owned())
    }

    /// Waits until one of the full checks that come every ten seconds is over: for nearly so long there
    /// is no other one without a reason.
    pub(crate) fn regular_check(&self) -> Result<Instant> {
        let before = self.last_check()?;
        eventually(PATIENCE, "a full check", || {
            ensure!(self.last_check()? != before, "{before}");
            anyhow::Ok(())
        })?;
        Ok(Instant::now())
    }

    /// What we have said to a peer, oldest first.
    pub(crate) fn said(&self, peer: Ipv4Addr) -> Vec<(Ipv4Addr, Packet)> {
        said(&self.bed, peer)
    }

    /// Nothing has left for the tunnel from an address but those that this scene has.
    pub(crate) fn only_from_held(&self) -> Result<()> {
        only_from(&self.bed.wire, &[PUBLIC, OTHER])
    }

    /// What a command says that is refused, with exit code 8.
    pub(crate) fn refused(&self, words: &[&str]) -> Result<String> {
        let output = self.agent.home().command(words)?;
        ensure!(output.status.code() == Some(8), "{words:?}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// No transmission has failed, and nothing was logged of the kind that the incident filled the log
    /// with.
    pub(crate) fn nothing_failed(&mut self) -> Result<()> {
        let maps = self.maps()?;
        let blocks = (0..).map_while(|block| maps.counters(block).ok());
        let of = |counters: Counters| FAILURES.map(|failure| counters.get(failure));
        let failures: u64 = blocks.flat_map(of).sum();
        ensure!(failures == 0, "{failures} transmissions have failed");
        let log = self.agent.process().log();
        ensure!(!log.contains("unreachable"), "{log}");
        Ok(())
    }
}

fn words<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["--interface", INTERFACE, "--detect-mult", DETECT_MULT];
    words.extend(["--tx-interval", "100ms", "--rx-interval", "100ms"]);
    words.extend(arguments);
    words
}

/// Both NICs, with our addresses at this end and the routers at the other.
pub(crate) fn nics(bed: &Bed) -> Result<()> {
    let ours = [format!("{PUBLIC}/24"), format!("{SECOND}/24")];
    for ((name, ours), router) in NICS.into_iter().zip(&ours).zip(ROUTERS) {
        let theirs = format!("{router}/24");
        let (near, far) = (
            End::new(&bed.here, name, ours),
            End::new(&bed.there, name, &theirs),
        );
        veth::pair(&near, &far)?;
    }
    for netns in [&bed.here, &bed.there] {
        // What is diverted comes in by another interface than answers leave by.
        for name in ["all", "default", INTERFACE, NICS[0], NICS[1]] {
            netns.command(&format!("sysctl -qw net.ipv4.conf.{name}.rp_filter=0"))?;
        }
    }
    Ok(())
}

/// What our host has said to a peer, oldest first.
pub(crate) fn said(bed: &Bed, peer: Ipv4Addr) -> Vec<(Ipv4Addr, Packet)> {
    said_by(&bed.wire, peer)
}

/// The same by a tunnel of the caller's.
pub(crate) fn said_by(wire: &TunWire, peer: Ipv4Addr) -> Vec<(Ipv4Addr, Packet)> {
    let said = bed::liveness(wire, Direction::AToB).into_iter();
    said.filter_map(|(record, packet)| {
        let udp = parse_udp(&record.packet)?;
        (*udp.dst.ip() == peer).then_some((*udp.src.ip(), packet))
    })
    .collect()
}

/// What our host has sent into a tunnel, whatever the protocol, has one of these sources.
pub(crate) fn only_from(wire: &TunWire, held: &[Ipv4Addr]) -> Result<()> {
    let sent = wire.records().into_iter();
    for record in sent.filter(|record| record.direction == Direction::AToB) {
        let source = Ipv4HeaderSlice::from_slice(&record.packet)?.source_addr();
        ensure!(held.contains(&source), "from {source}: {record:02x?}");
    }
    Ok(())
}
