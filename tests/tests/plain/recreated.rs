//! The tunnel is deleted, its link taken down first, and created anew with another index, as the
//! deployed client does it; then a BGP daemon puts the routes to all peers back.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, INTERFACE};
use dz_tests::harness::Test;
use dz_tests::machine;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::eventually;

use crate::scene::{GATEWAY, NEEDS, NICS, OTHER, PUBLIC, nics, only_from};

/// How often both sides send, ms. A burst of a hundred keeps an emulated processor busy for a while.
fn interval_ms() -> u32 {
    if machine::is_emulated() { 1_000 } else { 300 }
}
/// Some seconds: a busy machine takes nobody Down.
const DETECT_MULT: u8 = 20;
/// For a thousand of something, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lines of the log that a new tunnel may cost, however many peers are behind it: each place in the code
/// writes 20 a second at most.
const LINES: usize = 1_000;
/// Longer than it takes to say what was left out of the log.
const QUIET: Duration = Duration::from_secs(2);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("recreated::hundred_peers", &NEEDS, || all_rounds(100)),
        Test::new("recreated::thousand_peers", &NEEDS, || all_rounds(1_000)),
    ]
}

/// Both ends, but for the tunnel between them: peers and agent outlive that.
struct Crowd {
    agent: Agent,
    peers: UdpPeer,
    count: usize,
    /// Lines of the log before this round.
    lines: usize,
}

/// All are Up again after each round and nobody else is left; nothing was ever said from an address that
/// this host did not hold; each round costs the log so many lines at most.
fn all_rounds(count: usize) -> Result<()> {
    let mut bed = Bed::new("recreated", Duration::ZERO)?;
    nics(&bed)?;
    bed.here
        .ip(&format!("address add {OTHER}/32 dev {}", NICS[0]))?;
    // A whole network as one's own: a thousand addresses would take a thousand times as long.
    bed.there.ip("route add local 10.9.0.0/16 dev lo")?;
    far_side(&bed)?;
    let mut crowd = Crowd::new(&bed, count)?;
    crowd.put_routes(&bed, PUBLIC)?;
    crowd.until_up(&bed, PUBLIC)?;

    // Once, and several times before the agent has had a look at the first one.
    for times in [1, 3, 1] {
        crowd.remember()?;
        for _ in 0..times {
            bed = recreated(bed, &[PUBLIC])?;
            crowd.put_routes(&bed, PUBLIC)?;
        }
        crowd.until_up(&bed, PUBLIC)?;
        crowd.log_is_bounded(times)?;
    }

    // With another public address: the far end is told, as by its own BGP.
    crowd.remember()?;
    let old = bed.here.ifindex(INTERFACE)?;
    bed = recreated(bed, &[PUBLIC])?;
    ensure!(bed.here.ifindex(INTERFACE)? != old, "the same index");
    bed.here
        .ip(&format!("address delete {PUBLIC}/24 dev {}", NICS[0]))?;
    crowd.peers = peers(&bed, crowd.peers, OTHER, count)?;
    crowd.put_routes(&bed, OTHER)?;
    crowd.until_up(&bed, OTHER)?;
    only_from(&bed.wire, &[OTHER])?;
    crowd.log_is_bounded(1)?;

    // The routes go, and nothing is left.
    crowd.batch(&bed, &format!("route flush dev {INTERFACE} proto bgp\n"))?;
    crowd.until_counts([0, 0, 0, 0], OTHER)?;
    only_from(&bed.wire, &[OTHER])
}

/// Deletes the tunnel and makes another one. Until now our end has spoken from these addresses only.
fn recreated(bed: Bed, held: &[Ipv4Addr]) -> Result<Bed> {
    only_from(&bed.wire, held)?;
    bed.here.ip(&format!("link set {INTERFACE} down"))?;
    let old = bed.here.ifindex(INTERFACE)?;
    let Bed { here, there, wire } = bed;
    drop(wire);
    let bed = Bed::join(here, there)?;
    ensure!(bed.here.ifindex(INTERFACE)? != old, "the same index");
    far_side(&bed)?;
    Ok(bed)
}

/// The far end knows the way to both of our addresses, and a burst of all fits into the tunnel.
fn far_side(bed: &Bed) -> Result<()> {
    for local in [PUBLIC, OTHER] {
        let there = &bed.there;
        there.ip(&format!("route add {local}/32 dev {INTERFACE}"))?;
    }
    for netns in [&bed.here, &bed.there] {
        netns.ip(&format!("link set {INTERFACE} txqueuelen 10000"))?;
    }
    Ok(())
}

fn addresses(count: usize) -> impl Iterator<Item = Ipv4Addr> {
    let base = u32::from(Ipv4Addr::new(10, 9, 1, 0));
    (base..).take(count).map(Ipv4Addr::from)
}

fn spawn(bed: &Bed, ours: Ipv4Addr, count: usize) -> Result<UdpPeer> {
    let config = UdpPeerConfig {
        // By no interface of a name: the socket outlives it.
        crowd: Some(ours),
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
    addresses(count).for_each(|peer| peers.add_session(peer));
    Ok(peers)
}

/// Peers that know another address of ours, in the place of these: there is room for one socket.
fn peers(bed: &Bed, before: UdpPeer, ours: Ipv4Addr, count: usize) -> Result<UdpPeer> {
    drop(before);
    spawn(bed, ours, count)
}

impl Crowd {
    fn new(bed: &Bed, count: usize) -> Result<Self> {
        let (interval, multiplier) = (format!("{}ms", interval_ms()), DETECT_MULT.to_string());
        let mut words = vec!["--interface", INTERFACE, "--follow", "proto=bgp"];
        words.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        words.extend(["--detect-mult", &multiplier]);
        Ok(Self {
            agent: Agent::start_in(Home::new()?, &bed.here, &words)?,
            peers: spawn(bed, PUBLIC, count)?,
            count,
            lines: 0,
        })
    }

    /// Routes to all of them, as the deployed client has them.
    fn put_routes(&self, bed: &Bed, source: Ipv4Addr) -> Result<()> {
        let lines = addresses(self.count).fold(String::new(), |mut lines, peer| {
            // Writing to a string cannot fail.
            let way = format!("via {GATEWAY} dev {INTERFACE} src {source} proto bgp");
            let _ = writeln!(lines, "route add {peer}/32 {way}");
            lines
        });
        self.batch(bed, &lines)
    }

    fn batch(&self, bed: &Bed, lines: &str) -> Result<()> {
        let file = self.agent.home().state_dir().join("batch");
        std::fs::write(&file, lines)?;
        bed.here
            .ip(&format!("-batch {}", file.display()))
            .map(|_| ())
    }

    /// Waits until all are Up at both ends, by the tunnel that is there now, and there is nobody else.
    fn until_up(&self, bed: &Bed, local: Ipv4Addr) -> Result<()> {
        let count = self.count;
        self.until_counts([count, count, count, count], local)?;
        let ifindex = bed.here.ifindex(INTERFACE)?;
        let entries = bed::entries(self.agent.home())?;
        let here = |ifindexes: BTreeSet<u32>| ifindexes == [ifindex].into();
        ensure!(here(
            entries.iter().map(|entry| entry.key.ifindex).collect()
        ));
        let ours = bed.here.ip("route show proto 144")?;
        ensure!(ours.is_empty(), "routes of ours: {ours}");
        Ok(())
    }

    /// Waits until there are so many peers, sessions, sessions that are Up from this address, and peers
    /// that are Up.
    fn until_counts(&self, wanted: [usize; 4], local: Ipv4Addr) -> Result<()> {
        eventually(PATIENCE, &format!("{wanted:?} from {local}"), || {
            let maps = MapReader::from_pins(self.agent.home().pin_dir())?;
            let (peers, sessions) = (maps.peers()?, maps.sessions()?);
            let up = sessions.iter().filter(|entry| {
                entry.session.state == State::Up && entry.key.local == local.octets()
            });
            let theirs = self.peers.sessions().into_iter();
            let theirs = theirs.filter(|theirs| theirs.session.state == State::Up);
            let all = [peers.len(), sessions.len(), up.count(), theirs.count()];
            ensure!(all == wanted, "peers, sessions, Up, Up there: {all:?}");
            anyhow::Ok(())
        })
    }

    fn remember(&mut self) -> Result<()> {
        self.lines = self.agent.process().log().lines().count();
        Ok(())
    }

    /// So many new tunnels cost at most so many lines, and then there are no more.
    fn log_is_bounded(&mut self, times: usize) -> Result<()> {
        let process = self.agent.process();
        let (mut lines, mut since) = (process.log().lines().count(), Instant::now());
        eventually(PATIENCE, "nothing more to say", || {
            let now = process.log().lines().count();
            if now != lines {
                (lines, since) = (now, Instant::now());
            }
            ensure!(since.elapsed() > QUIET, "{lines} lines");
            anyhow::Ok(())
        })?;
        let (lines, at_most) = (lines - self.lines, times * LINES);
        println!("{} peers, {times} times: {lines} lines", self.count);
        ensure!(lines <= at_most, "{lines} lines, {at_most} allowed");
        let log = process.log();
        ensure!(!log.contains("unreachable"), "{log}");
        let nameless = log.lines().find(|line| line.contains("interface=\"#"));
        ensure!(nameless.is_none(), "without its name: {nameless:?}");
        Ok(())
    }
}
