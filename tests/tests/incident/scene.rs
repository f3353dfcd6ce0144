//! An agent, five peers that know both of its addresses, and the wire between them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::{Counter, Counters};
use dz_common::packet::{Packet, State};
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Requirement;
use dz_tests::udp_peer::{Rules, UdpPeer};
use dz_tests::wait::eventually;
use dz_tests::wire::{Direction, Record};

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];
/// The allocated address.
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
/// The address of the second connect.
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
/// The peers.
pub(crate) const PEERS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(10, 9, 0, 2),
    Ipv4Addr::new(10, 9, 0, 3),
    Ipv4Addr::new(10, 9, 0, 4),
    Ipv4Addr::new(10, 9, 0, 5),
];
/// AdminDown is sent three times for each session that is given up.
pub(crate) const FAREWELLS: usize = 3;
const INTERVAL_MS: u32 = 100;
/// What counts transmissions that failed.
const FAILURES: [Counter; 3] = [
    Counter::TxFailed,
    Counter::TxNoNeighbour,
    Counter::RxAnswerFailed,
];

/// A NIC of ours that has nothing to do with the tunnel, and the device that it is a pair with.
const NIC: &str = "nic0";
const NIC_PEER: &str = "nic0-peer";

/// Where an address of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the tunnel: it is allocated.
    Tunnel,
    /// On the NIC: it is this host's public one.
    Nic,
}

/// Where A and B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) a: Place,
    pub(crate) b: Place,
}

impl Places {
    /// What the incident was about, and its kin: named by what becomes of what.
    pub(crate) const ALL: [(&str, Self); 4] = [
        (
            "allocated_to_allocated",
            Self::new(Place::Tunnel, Place::Tunnel),
        ),
        ("allocated_to_plain", Self::new(Place::Tunnel, Place::Nic)),
        ("plain_to_allocated", Self::new(Place::Nic, Place::Tunnel)),
        ("plain_to_plain", Self::new(Place::Nic, Place::Nic)),
    ];

    const fn new(a: Place, b: Place) -> Self {
        Self { a, b }
    }
}

/// The scene.
pub(crate) struct Scene {
    places: Places,
    pub(crate) bed: Bed,
    pub(crate) agent: Agent,
    pub(crate) peers: Vec<UdpPeer>,
}

impl Scene {
    /// A is on the interface, every peer asks for it, and nothing is connected yet.
    pub(crate) fn new(label: &str, places: Places) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        bed.here
            .ip(&format!("link add {NIC} type veth peer name {NIC_PEER}"))?;
        for name in [NIC, NIC_PEER] {
            bed.here.ip(&format!("link set {name} up"))?;
        }
        far_side(&bed)?;
        bed.here.ip(&line("add", A, places.a))?;
        let agent = bed.agent(INTERVAL_MS)?;
        let spawn = |&local: &Ipv4Addr| bed.peer_at(local, Rules::Deployed, INTERVAL_MS);
        let peers: Vec<_> = PEERS.iter().map(spawn).collect::<Result<_>>()?;
        let scene = Self {
            places,
            bed,
            agent,
            peers,
        };
        scene.peers_ask(A);
        Ok(scene)
    }

    /// Where an address of ours is, when it is there.
    pub(crate) const fn place(&self, local: Ipv4Addr) -> Place {
        if local.to_bits() == A.to_bits() {
            self.places.a
        } else {
            self.places.b
        }
    }

    /// Adds an address of ours, or deletes it.
    pub(crate) fn address(&self, verb: &str, local: Ipv4Addr) -> Result<()> {
        let line = line(verb, local, self.place(local));
        self.bed.here.ip(&line).map(|_| ())
    }

    /// Every peer starts a session with one of our addresses.
    pub(crate) fn peers_ask(&self, local: Ipv4Addr) {
        for peer in &self.peers {
            peer.add_session(local);
        }
    }

    /// The agent connects to every peer from one of its addresses.
    pub(crate) fn connect(&self, local: Ipv4Addr) -> Result<()> {
        let (local, peers) = (local.to_string(), PEERS.map(|peer| peer.to_string()));
        let mut words = vec!["connect", "--local", &local];
        words.extend(peers.iter().map(String::as_str));
        self.agent.cli(&words).map(|_| ())
    }

    /// Waits until every session is Up from this address, with its route, and there is nothing else.
    pub(crate) fn until_up(&self, local: Ipv4Addr) -> Result<()> {
        eventually(PATIENCE, &format!("every session Up from {local}"), || {
            let entries = bed::entries(self.agent.home())?;
            let up: BTreeSet<_> = entries
                .iter()
                .filter(|entry| entry.session.state == State::Up)
                .map(|entry| (Ipv4Addr::from(entry.key.local), entry.key.peer.into()))
                .collect();
            let wanted = PEERS.map(|peer| (local, peer)).into();
            ensure!(up == wanted && entries.len() == PEERS.len(), "{entries:?}");
            self.only_routes_from(local)
        })
    }

    /// One route of ours to each peer, with this source, and no other.
    fn only_routes_from(&self, local: Ipv4Addr) -> Result<()> {
        let routes = self.routes()?;
        // Where the address is not the tunnel's, the far end of the link is the gateway.
        let way = match self.place(local) {
            Place::Tunnel => format!("dev {INTERFACE} scope link src {local} "),
            Place::Nic => format!("via {THERE} dev {INTERFACE} src {local} "),
        };
        let right = |peer: &Ipv4Addr| {
            let mut lines = routes.lines();
            lines.any(|line| format!("{line} ").starts_with(&format!("{peer} {way}")))
        };
        ensure!(
            routes.lines().count() == PEERS.len() && PEERS.iter().all(right),
            "{routes}"
        );
        Ok(())
    }

    /// Our routes, a line each.
    pub(crate) fn routes(&self) -> Result<String> {
        self.bed.here.ip("route show proto 144")
    }

    /// How many peers are wanted, as the map has it.
    pub(crate) fn wanted(&self) -> Result<usize> {
        let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
        Ok(maps.peers()?.len())
    }

    /// Waits until every peer has asked for an address of ours some more times: time that passes, as
    /// the other end counts it.
    pub(crate) fn peers_asked_again(&self, local: Ipv4Addr, times: usize) -> Result<()> {
        let asked = |peer: Ipv4Addr| {
            let ours = |record: &Record| {
                addresses(record) == Some((peer, local)) && record.direction == Direction::BToA
            };
            self.bed.wire.records().iter().filter(|r| ours(r)).count()
        };
        let before = PEERS.map(asked);
        eventually(PATIENCE, &format!("peers that ask for {local}"), || {
            let now = PEERS.map(asked);
            let enough = now
                .iter()
                .zip(before)
                .all(|(now, then)| *now >= then + times);
            ensure!(enough, "{before:?}, then {now:?}");
            anyhow::Ok(())
        })
    }

    /// Everything that our host has sent from an address, whatever the protocol.
    pub(crate) fn sent_from(&self, local: Ipv4Addr) -> Vec<Record> {
        let ours = |record: &Record| {
            record.direction == Direction::AToB
                && addresses(record).is_some_and(|(source, _)| source == local)
        };
        self.bed.wire.records().into_iter().filter(ours).collect()
    }

    /// What was sent from an address to a peer ended with the farewell: nothing else came after the
    /// first AdminDown.
    pub(crate) fn ended_with_farewell(&self, local: Ipv4Addr) -> Result<()> {
        let sent = self.sent_from(local);
        for peer in PEERS {
            let to_peer = sent.iter().filter(|record| {
                addresses(record).is_some_and(|(_, destination)| destination == peer)
            });
            let states: Vec<_> = to_peer.map(state).collect::<Result<_>>()?;
            let first = states.iter().position(|state| *state == State::AdminDown);
            let first = first.with_context(|| format!("no farewell to {peer}: {states:?}"))?;
            let last = &states[first..];
            ensure!(
                last == [State::AdminDown; FAREWELLS],
                "from the commit on, to {peer}: {last:?}"
            );
        }
        Ok(())
    }

    /// How many transmissions have failed, those from addresses included that are gone now.
    pub(crate) fn failures(&self) -> Result<u64> {
        let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
        let blocks = (0..).map_while(|block| maps.counters(block).ok());
        let of = |counters: Counters| FAILURES.map(|failure| counters.get(failure));
        Ok(blocks.flat_map(of).sum())
    }

    /// No transmission has failed since the agent started, and nothing was logged of the kind that
    /// the incident filled the log with.
    pub(crate) fn nothing_failed(&mut self) -> Result<()> {
        self.nothing_failed_after(0)
    }

    /// The same after so many failures.
    pub(crate) fn nothing_failed_after(&mut self, failures: u64) -> Result<()> {
        let now = self.failures()?;
        ensure!(now == failures, "{failures} failures, then {now}");
        let log = self.agent.process().log();
        if let Some(line) = log.lines().find(|line| line.contains("unreachable")) {
            bail!("{line}");
        }
        Ok(())
    }
}

fn line(verb: &str, local: Ipv4Addr, place: Place) -> String {
    let device = match place {
        Place::Tunnel => INTERFACE,
        Place::Nic => NIC,
    };
    format!("address {verb} {local}/32 dev {device}")
}

/// The far end holds the peers' addresses and knows the way to both of ours.
pub(crate) fn far_side(bed: &Bed) -> Result<()> {
    for peer in PEERS {
        let line = format!("address add {peer}/32 dev {INTERFACE}");
        bed.there.ip(&line)?;
    }
    for local in [A, B] {
        bed.there
            .ip(&format!("route add {local} dev {INTERFACE}"))?;
    }
    Ok(())
}

/// Source and destination of an IPv4 packet.
fn addresses(record: &Record) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let at = |offset| {
        let bytes = record.packet.get(offset..offset + 4)?;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
    };
    (record.packet.first()? >> 4 == 4).then_some(())?;
    Some((at(12)?, at(16)?))
}

fn state(record: &Record) -> Result<State> {
    let payload = parse_udp(&record.packet).context("not UDP")?.payload;
    let packet = Packet::decode(&payload);
    let packet = packet.map_err(|reject| anyhow::anyhow!("no liveness packet: {reject:?}"))?;
    Ok(packet.state)
}
