//! Control traffic: with a full queue below, sessions stay Up, whichever program has made their packets.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::{DownReason, Timers};
use dz_tests::agent::Agent;
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::harness::{Outcome, Requirement, Test};
use dz_tests::netns::Netns;
use dz_tests::queue::{self, Discipline, Flood};
use dz_tests::udp_peer::{Snapshot, UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::{eventually, holds};

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Where the flood goes: no peer, so that the gate lets it pass.
const SINK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const INTERVAL_US: u32 = 100_000;
/// A second: more than a pause of this machine's, less than a full queue takes to get empty.
const DETECT_MULT: u8 = 10;
/// As in the report that led to this.
const WATCHED: Duration = Duration::from_secs(12);

pub(super) fn tests() -> Vec<Test> {
    let needs = [
        Requirement::Root,
        Requirement::Tool("tc"),
        Requirement::Tool("ethtool"),
    ];
    vec![
        Test::new("queue::answers", &needs, || full(Sender::Answers)),
        Test::new("queue::transmissions", &needs, || full(Sender::Clock)),
    ]
}

/// What makes most of our packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// The agent stands still.
    Answers,
    /// The peer sends more rarely than we do.
    Clock,
}

fn full(sender: Sender) -> Result<Outcome> {
    let peers_us = match sender {
        Sender::Answers => INTERVAL_US,
        Sender::Clock => 10 * INTERVAL_US,
    };
    // First come, first served: the queue is what it is meant to be.
    let fifo = match Hosts::new(Discipline::Fifo, peers_us)? {
        Ok(hosts) => hosts,
        Err(skip) => return Ok(skip),
    };
    let flood = fifo.flood()?;
    eventually(PATIENCE, "a peer that loses us behind a queue", || {
        let session = fifo.theirs()?;
        let lost = session
            .changes
            .iter()
            .any(|one| one.reason == DownReason::Timeout);
        ensure!(lost, "{session:?}");
        anyhow::Ok(())
    })?;
    drop(flood);

    let mut hosts = match Hosts::new(Discipline::ByPriority, peers_us)? {
        Ok(hosts) => hosts,
        Err(skip) => return Ok(skip),
    };
    let before = hosts.theirs()?.changes;
    let _flood = hosts.flood()?;
    if sender == Sender::Answers {
        hosts.agent.process().freeze()?;
    }
    let by_us = hosts.by_us()?;
    holds(WATCHED, "a session that stays Up", || {
        let now = hosts.theirs()?.changes;
        ensure!(now == before, "{now:?}");
        anyhow::Ok(())
    })?;
    let now = hosts.by_us()?;
    let (answers, transmissions) = (now.0 - by_us.0, now.1 - by_us.1);
    let waiting = queue::backlog(&hosts.here, INTERFACE)?;
    println!("{answers} answers, {transmissions} transmissions before {waiting} packets");
    ensure!((answers > transmissions) == (sender == Sender::Answers));
    ensure!(waiting > 100, "the queue is not full any more");
    Ok(Outcome::Passed)
}

struct Hosts {
    here: Netns,
    peer: UdpPeer,
    agent: Agent,
    _there: Netns,
}

impl Hosts {
    fn new(discipline: Discipline, peers_us: u32) -> Result<Result<Self, Outcome>> {
        let (here, there) = (Netns::new("queue")?, Netns::new("far")?);
        let near = End::new(&here, INTERFACE, "10.77.0.1/24");
        veth::pair(&near, &End::new(&there, INTERFACE, "10.77.0.2/24"))?;
        if let Some(skip) = queue::narrow(&here, INTERFACE, discipline)? {
            return Ok(Err(skip));
        }
        let far = veth::mac_text(veth::mac(&there, INTERFACE)?);
        // ARP is no control traffic.
        for address in [PEER, SINK] {
            here.ip(&format!(
                "neigh add {address} lladdr {far} dev {INTERFACE} nud permanent"
            ))?;
        }
        let mult = DETECT_MULT.to_string();
        let mut words = vec!["--interface", INTERFACE, "--metrics-listen=off"];
        words.extend(["--attach=tc", "--tx-interval=100ms", "--rx-interval=100ms"]);
        words.extend(["--detect-mult", &mult]);
        let agent = Agent::start(&here, &words)?;
        agent.cli(&["connect", &PEER.to_string(), "--local", &LOCAL.to_string()])?;
        let config = UdpPeerConfig {
            timers: Timers {
                desired_min_tx_us: peers_us,
                required_min_rx_us: INTERVAL_US,
                detect_mult: DETECT_MULT,
                backoff_cap_us: 1_000_000,
                ..Timers::DEFAULT
            },
            ..UdpPeerConfig::new(PEER)
        };
        let peer = there.run(|| UdpPeer::spawn(config)).context("peer")?;
        peer.add_session(LOCAL);
        let hosts = Self {
            here,
            peer,
            agent,
            _there: there,
        };
        eventually(PATIENCE, "Up at both ends", || {
            let (ours, theirs) = (hosts.entry()?.session, hosts.theirs()?.session);
            ensure!(
                ours.state == State::Up && theirs.state == State::Up,
                "{ours:?}"
            );
            anyhow::Ok(())
        })?;
        Ok(Ok(hosts))
    }

    fn flood(&self) -> Result<Flood> {
        Flood::start(&self.here, INTERFACE, SINK)
    }

    fn theirs(&self) -> Result<Snapshot> {
        self.peer.session(LOCAL).context("no session")
    }

    fn entry(&self) -> Result<dz_common::map::SessionEntry> {
        dz_tests::bed::entry(self.agent.home())
    }

    /// Our answers, and what our clock has sent.
    fn by_us(&self) -> Result<(u64, u64)> {
        let entry = self.entry()?;
        Ok((entry.answered, entry.originated))
    }
}
