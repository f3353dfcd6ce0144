//! An agent with some peers that are Up, and what is left of it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::{DownReason, Timers};
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Requirement;
use dz_tests::udp_peer::{Snapshot, UdpPeer, UdpPeerConfig};
use dz_tests::wait::{eventually, monotonic_ns};
use dz_tests::wire::Direction;
use dz_tests::{attached, bpftool};
use serde_json::Value;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 3] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("bpftool"),
];
/// With [`MULTIPLIER`] a detection time of 30 s: what happens at once cannot be a timeout.
const INTERVAL_US: u32 = 3_000_000;
const MULTIPLIER: u8 = 10;
/// AdminDown packets to each peer.
const FAREWELLS: usize = 3;
/// A route and a pin of somebody else's.
const FOREIGN_ROUTE: &str = "10.8.0.1";
const FOREIGN_PIN: &str = "somebody";

/// Peers that are Up, with their routes, beside things of somebody else's.
pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) peers: Vec<(Ipv4Addr, UdpPeer)>,
}

impl Scene {
    /// The bed, and that many peers with the deployed rules.
    pub(crate) fn new(label: &str, peers: u8) -> Result<Self> {
        // A delay, so that nothing is back before it is there.
        let bed = Bed::new(label, Duration::from_millis(2))?;
        let mut scene = Self {
            bed,
            peers: Vec::new(),
        };
        for last in 1..=peers {
            let address = Ipv4Addr::new(10, 7, 0, last);
            let there = &scene.bed.there;
            there.ip(&format!("address add {address}/32 dev {INTERFACE}"))?;
            let config = UdpPeerConfig {
                timers: Timers {
                    desired_min_tx_us: INTERVAL_US,
                    required_min_rx_us: INTERVAL_US,
                    detect_mult: MULTIPLIER,
                    ..UdpPeerConfig::new(address).timers
                },
                ..UdpPeerConfig::new(address)
            };
            let peer = there.run(|| UdpPeer::spawn(config)).context("UDP peer")?;
            peer.add_session(HERE);
            scene.peers.push((address, peer));
        }
        let here = &scene.bed.here;
        here.ip(&format!(
            "route add {FOREIGN_ROUTE} dev {INTERFACE} proto 186"
        ))?;
        Ok(scene)
    }

    /// An agent with all of them Up.
    pub(crate) fn agent(&self, more: &[&str]) -> Result<Agent> {
        let agent = self.start(Home::new()?, more)?;
        let local = HERE.to_string();
        for (address, _) in &self.peers {
            agent.cli(&["connect", &address.to_string(), "--local", &local])?;
        }
        self.until_up()?;
        let foreign = agent.home().pin_dir().join(FOREIGN_PIN);
        let map = agent.home().pin_dir().join("dz_heartbeat");
        aya::maps::MapData::from_pin(map)?.pin(foreign)?;
        Ok(agent)
    }

    pub(crate) fn start(&self, home: Home, more: &[&str]) -> Result<Agent> {
        let multiplier = MULTIPLIER.to_string();
        let mut arguments = vec!["--interface", INTERFACE];
        arguments.extend(["--tx-interval", "3s", "--rx-interval", "3s"]);
        arguments.extend(["--detect-mult", &multiplier]);
        arguments.extend(more);
        Agent::start_in(home, &self.bed.here, &arguments)
    }

    /// Every peer Up, and its route there.
    pub(crate) fn until_up(&self) -> Result<()> {
        for (address, peer) in &self.peers {
            bed::peer_until(peer, State::Up)?;
            bed::until_route(&self.bed.here, *address, true)?;
        }
        Ok(())
    }

    /// Each peer has gone Down because it was told so, by the first of three packets, and has said so
    /// in its next packet.
    pub(crate) fn told(&self, since_ns: u64) -> Result<()> {
        for (address, peer) in &self.peers {
            bed::peer_until(peer, State::Down)?;
            let theirs = eventually(PATIENCE, "three farewells received", || {
                let theirs = peer.session(HERE).context("no session")?;
                let said = self.farewells(*address, since_ns);
                ensure!(said.len() == FAREWELLS, "{} farewells", said.len());
                anyhow::Ok(theirs)
            })?;
            self.told_by_the_first(*address, &theirs, since_ns)?;
        }
        Ok(())
    }

    fn told_by_the_first(&self, peer: Ipv4Addr, theirs: &Snapshot, since_ns: u64) -> Result<()> {
        let change = theirs.changes.last().context("no change")?;
        ensure!(
            change.reason == DownReason::RemoteAdmin && change.from == State::Up,
            "{change:?}"
        );
        let first_ns = self.farewells(peer, since_ns)[0];
        ensure!(change.at_ns > first_ns, "before it was told: {change:?}");
        // What the peer says from then on. The next packet may wait for its pacing.
        let said = eventually(PATIENCE, "the peer's word", || {
            let packets = bed::liveness(&self.bed.wire, Direction::BToA).into_iter();
            let said: Vec<_> = packets
                .filter(|(record, _)| record.at_ns >= change.at_ns)
                .filter(|(record, _)| record.packet[12..16] == peer.octets())
                .map(|(_, packet)| packet.state)
                // What it had sent before may have come into the wire after.
                .skip_while(|state| *state == State::Up)
                .collect();
            (!said.is_empty()).then_some(said)
        })?;
        ensure!(
            said.iter().all(|state| *state == State::Down),
            "{peer} said {said:?} after AdminDown"
        );
        let millis = (change.at_ns - first_ns) as f64 / 1e6;
        println!("{peer}: Down {millis:.1} ms after the first AdminDown left, remote_admin");
        Ok(())
    }

    /// When AdminDown was sent to a peer; nothing else may have been since the first.
    fn farewells(&self, peer: Ipv4Addr, since_ns: u64) -> Vec<u64> {
        let packets = bed::liveness(&self.bed.wire, Direction::AToB).into_iter();
        packets
            .filter(|(record, _)| record.at_ns >= since_ns)
            .filter(|(record, _)| record.packet[16..20] == peer.octets())
            .skip_while(|(_, packet)| packet.state != State::AdminDown)
            .map(|(record, _)| record.at_ns)
            .collect()
    }
}

/// Everything of an agent's that the kernel holds.
pub(crate) struct Belongings {
    pins: PathBuf,
    maps: Vec<u64>,
    programs: Vec<u64>,
    pub(crate) since_ns: u64,
}

impl Belongings {
    /// Notes what a running agent has.
    pub(crate) fn of(agent: &Agent, bed: &Bed) -> Result<Self> {
        let pins = agent.home().pin_dir().to_owned();
        let maps = map_ids(&pins)?;
        ensure!(maps.len() >= 10, "{maps:?}");
        let programs = programs_of(&maps)?;
        // Ingress, transmit and control at least.
        ensure!(programs.len() >= 3, "{programs:?}");
        ensure!(attached::programs(&bed.here, INTERFACE)? > 0);
        ensure!(
            !attached::by_tcx() || links(&pins)? > 0,
            "no link is pinned"
        );
        Ok(Self {
            pins,
            maps,
            programs,
            since_ns: monotonic_ns(),
        })
    }

    /// All of it is gone, and what is somebody else's is not.
    pub(crate) fn are_gone(&self, home: &Home, bed: &Bed) -> Result<()> {
        // No waiting: the process has ended, and it does these before.
        let routes = bed.here.ip("route show proto 144")?;
        ensure!(routes.is_empty(), "left behind: {routes}");
        ensure!(!home.socket().exists(), "the socket is left");
        ensure!(attached::programs(&bed.here, INTERFACE)? == 0, "attached");
        self.nothing_in_the_kernel()?;
        let foreign = bed.here.ip(&format!("route show {FOREIGN_ROUTE}"))?;
        ensure!(foreign.contains("proto bgp") || foreign.contains("proto 186"));
        Ok(())
    }

    /// No pin but the foreign one, no program; no map but the one that the foreign pin holds.
    pub(crate) fn nothing_in_the_kernel(&self) -> Result<()> {
        let left: Vec<_> = std::fs::read_dir(&self.pins)?.flatten().collect();
        ensure!(
            left.len() == 1 && left[0].file_name() == FOREIGN_PIN,
            "pins left: {left:?}"
        );
        let foreign = shown("map", "pinned", &left[0].path().to_string_lossy())?;
        let foreign = foreign["id"].as_u64().context("a map without an id")?;
        // The kernel frees maps and programs a moment after their last user is gone.
        eventually(PATIENCE, "no map, no program of ours", || {
            let exists = |kind, id: &u64| shown(kind, "id", &id.to_string()).is_ok();
            let maps = self.maps.iter().filter(|id| **id != foreign);
            let maps: Vec<_> = maps.filter(|id| exists("map", id)).collect();
            let programs = self.programs.iter();
            let programs: Vec<_> = programs.filter(|id| exists("prog", id)).collect();
            ensure!(
                maps.is_empty() && programs.is_empty(),
                "maps {maps:?}, programs {programs:?}"
            );
            anyhow::Ok(())
        })
    }

    /// All of it is still there.
    pub(crate) fn are_there(&self, bed: &Bed, routes: usize) -> Result<()> {
        ensure!(map_ids(&self.pins)? == self.maps, "other maps");
        ensure!(!attached::by_tcx() || links(&self.pins)? > 0, "no link");
        ensure!(attached::programs(&bed.here, INTERFACE)? > 0, "detached");
        let shown = bed.here.ip("route show proto 144")?;
        ensure!(shown.lines().count() == routes, "routes: {shown}");
        Ok(())
    }
}

fn shown(kind: &str, by: &str, which: &str) -> Result<Value> {
    bpftool::json(&[kind, "show", by, which])
}

/// Kernel ids of the maps pinned in a directory, by name.
fn map_ids(pins: &Path) -> Result<Vec<u64>> {
    let mut paths: Vec<_> = std::fs::read_dir(pins)?.flatten().collect();
    paths.sort_by_key(std::fs::DirEntry::file_name);
    let ours = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().starts_with("dz_");
    let mut ids = Vec::new();
    for file in paths.into_iter().filter(ours) {
        let shown = shown("map", "pinned", &file.path().to_string_lossy())?;
        ids.push(shown["id"].as_u64().context("a map without an id")?);
    }
    Ok(ids)
}

/// Kernel ids of the programs that use any of the maps.
fn programs_of(maps: &[u64]) -> Result<Vec<u64>> {
    let all = bpftool::json(&["prog", "show"])?;
    let uses = |program: &&Value| {
        let ids = program["map_ids"].as_array();
        ids.is_some_and(|ids| {
            ids.iter()
                .filter_map(Value::as_u64)
                .any(|id| maps.contains(&id))
        })
    };
    let programs = all.as_array().context("no list")?.iter().filter(uses);
    Ok(programs
        .filter_map(|program| program["id"].as_u64())
        .collect())
}

fn links(pins: &Path) -> Result<usize> {
    let files = std::fs::read_dir(pins)?.flatten();
    Ok(files
        .filter(|file| file.file_name().to_string_lossy().starts_with("link_"))
        .count())
}
