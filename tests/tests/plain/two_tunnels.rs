//! Two tunnels at once, as of a client that has unicast and multicast: each with the /31 of its link and
//! nothing else, the same public address, and the same peer behind both.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, Bed, INTERFACE, PATIENCE, THERE};
use dz_tests::harness::Test;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{UdpPeer, UdpPeerConfig};
use dz_tests::wait::{eventually, holds};
use dz_tests::wire::{Direction, TunWire};

use crate::scene::{NEEDS, NICS, PEER, PUBLIC, ROUTERS, nics, only_from, said_by};

/// The tunnel for multicast.
const MULTICAST: &str = "doublezero1";
/// The far end of its link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 8, 1);
const INTERVAL_US: u32 = 100_000;
/// Three seconds: a busy machine takes nobody Down.
const DETECT_MULT: &str = "30";
const PEERS_MULT: u8 = 30;
/// Longer than what a session takes to fall silent.
const AFTERWARDS: Duration = Duration::from_secs(4);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("two_tunnels::followed", &NEEDS, followed),
        Test::new("two_tunnels::connected", &NEEDS, connected),
    ]
}

/// One bed with a second tunnel, and the peer at the far end of both.
struct Two {
    bed: Bed,
    multicast: Option<TunWire>,
    agent: Agent,
    /// By the first tunnel, and by the second.
    peers: [Option<UdpPeer>; 2],
}

impl Two {
    fn new(label: &str, more: &[&str]) -> Result<Self> {
        let bed = Bed::new(label, Duration::ZERO)?;
        nics(&bed)?;
        bed.here
            .ip(&format!("route add default via {}", ROUTERS[0]))?;
        bed.there.ip("link set lo up")?;
        bed.there.ip(&format!("address add {PEER}/32 dev lo"))?;
        bed.there
            .ip(&format!("route add {PUBLIC}/32 dev {INTERFACE}"))?;
        let multicast = Some(second_tunnel(&bed)?);
        let mut words = vec!["--interface", INTERFACE, "--interface", MULTICAST];
        words.extend(["--tx-interval", "100ms", "--rx-interval", "100ms"]);
        words.extend(["--detect-mult", DETECT_MULT]);
        words.extend(more);
        let agent = Agent::start_in(Home::new()?, &bed.here, &words)?;
        let peers = [Some(peer(&bed, INTERFACE)?), Some(peer(&bed, MULTICAST)?)];
        Ok(Self {
            bed,
            multicast,
            agent,
            peers,
        })
    }

    fn route(&self, verb: &str, interface: &str) -> Result<()> {
        // In the table they need a place each.
        let (gateway, metric) = if interface == INTERFACE {
            (THERE, 0)
        } else {
            (GATEWAY, 20)
        };
        let way = format!("via {gateway} dev {interface} src {PUBLIC} proto bgp metric {metric}");
        self.bed
            .here
            .ip(&format!("route {verb} {PEER}/32 {way}"))
            .map(|_| ())
    }

    fn entry(&self, interface: &str) -> Result<SessionEntry> {
        let ifindex = self.bed.here.ifindex(interface)?;
        let mut entries = bed::entries(self.agent.home())?.into_iter();
        let found = entries.find(|entry| entry.key.ifindex == ifindex);
        found.with_context(|| format!("no session by {interface}"))
    }

    fn until(&self, interface: &str, state: State) -> Result<SessionEntry> {
        let what = format!("session by {interface} {}", state.name());
        eventually(PATIENCE, &what, || {
            let entry = self.entry(interface)?;
            let from_public = entry.key.local == PUBLIC.octets();
            ensure!(entry.session.state == state && from_public, "{entry:?}");
            anyhow::Ok(entry)
        })
    }

    fn multicast(&self) -> Result<&TunWire> {
        self.multicast.as_ref().context("no second tunnel")
    }

    /// Waits until these are the sessions, and holds that they are still the same ones.
    fn still(&self, interface: &str, before: &SessionEntry) -> Result<()> {
        holds(AFTERWARDS, "the other session as it was", || {
            let now = self.entry(interface)?;
            ensure!(
                now.generation == before.generation && now.session.ups == before.session.ups,
                "{now:?}"
            );
            anyhow::Ok(())
        })
    }
}

fn second_tunnel(bed: &Bed) -> Result<TunWire> {
    let here = Tun::new(&bed.here, MULTICAST, &["169.254.8.0/31"])?;
    let there = Tun::new(&bed.there, MULTICAST, &["169.254.8.1/31"])?;
    for netns in [&bed.here, &bed.there] {
        netns.command(&format!("sysctl -qw net.ipv4.conf.{MULTICAST}.rp_filter=0"))?;
    }
    bed.there
        .ip(&format!("route add {PUBLIC}/32 dev {MULTICAST} metric 20"))?;
    Ok(TunWire::connect(here, there, Duration::ZERO)?)
}

/// The peer by one of the tunnels: a session of its own, as the deployed client has it.
fn peer(bed: &Bed, interface: &str) -> Result<UdpPeer> {
    let config = UdpPeerConfig {
        device: Some(interface.to_owned()),
        timers: Timers {
            desired_min_tx_us: INTERVAL_US,
            required_min_rx_us: INTERVAL_US,
            detect_mult: PEERS_MULT,
            backoff_cap_us: 1_000_000,
            ..Timers::DEFAULT
        },
        ..UdpPeerConfig::new(PEER)
    };
    let peer = bed.there.run(|| UdpPeer::spawn(config)).context("peer")?;
    peer.add_session(PUBLIC);
    Ok(peer)
}

/// What happens to one is nothing to the other: its peer falls silent, its route goes, its tunnel is
/// made anew. And the way around one is not by the other.
fn followed() -> Result<()> {
    let mut two = Two::new("plain-two", &["--follow", "proto=bgp"])?;
    for interface in [INTERFACE, MULTICAST] {
        two.route("add", interface)?;
        two.until(interface, State::Up)?;
    }
    let unicast = two.until(INTERFACE, State::Up)?;
    let nic = two.bed.here.ifindex(NICS[0])?;
    for interface in [INTERFACE, MULTICAST] {
        eventually(PATIENCE, "the way around, by the NIC", || {
            let detour = two.entry(interface)?.detour;
            ensure!(detour == nic, "{detour}");
            anyhow::Ok(())
        })?;
    }

    let silent = two.peers[1].as_ref().context("no peer")?;
    silent.silence();
    two.until(MULTICAST, State::Down)?;
    two.still(INTERFACE, &unicast)?;
    silent.resume();
    two.until(MULTICAST, State::Up)?;

    // The farewell of one is said by its tunnel only; the address is still the other one's.
    two.route("delete", MULTICAST)?;
    eventually(PATIENCE, "the farewell", || {
        let said = said_by(two.multicast()?, PEER);
        let farewells = said
            .iter()
            .filter(|(_, packet)| packet.state == State::AdminDown);
        ensure!(farewells.count() == 3, "{said:?}");
        ensure!(two.entry(MULTICAST).is_err(), "a session");
        anyhow::Ok(())
    })?;
    two.still(INTERFACE, &unicast)?;
    let said = said_by(&two.bed.wire, PEER);
    ensure!(
        said.iter()
            .all(|(_, packet)| packet.state != State::AdminDown),
        "by the first tunnel, too: {said:?}"
    );
    two.route("add", MULTICAST)?;
    two.until(MULTICAST, State::Up)?;

    two.peers[1] = None; // bound to what goes now
    only_from(two.multicast()?, &[PUBLIC])?;
    two.bed.here.ip(&format!("link set {MULTICAST} down"))?;
    two.multicast = None;
    two.multicast = Some(second_tunnel(&two.bed)?);
    two.peers[1] = Some(peer(&two.bed, MULTICAST)?);
    two.route("add", MULTICAST)?;
    two.until(MULTICAST, State::Up)?;
    two.still(INTERFACE, &unicast)?;
    only_from(two.multicast()?, &[PUBLIC])?;
    only_from(&two.bed.wire, &[PUBLIC])?;

    // The public address goes, and both with it; it comes back by another NIC, with the routes.
    two.bed
        .here
        .ip(&format!("address delete {PUBLIC}/24 dev {}", NICS[0]))?;
    eventually(PATIENCE, "no session left", || {
        let entries = bed::entries(two.agent.home())?;
        ensure!(entries.is_empty(), "{entries:?}");
        anyhow::Ok(())
    })?;
    two.bed
        .here
        .ip(&format!("address add {PUBLIC}/32 dev {}", NICS[1]))?;
    for interface in [INTERFACE, MULTICAST] {
        two.route("add", interface)?;
        two.until(interface, State::Up)?;
    }
    Ok(())
}

/// Asked for by name, for the public address is neither tunnel's own. The one route of ours is by the
/// tunnel whose session is Up.
fn connected() -> Result<()> {
    let two = Two::new("plain-two-asked", &[])?;
    let (peer, public) = (PEER.to_string(), PUBLIC.to_string());
    let words = ["connect", &peer, "--local", &public];
    let refused = two.agent.home().command(&words)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(8) && said.contains("name one (--interface NAME)"),
        "{refused:?}"
    );
    for interface in [INTERFACE, MULTICAST] {
        two.agent
            .cli(&[&words[..], &["--interface", interface]].concat())?;
        two.until(interface, State::Up)?;
    }
    let until_route = |interface: &str, gateway: Ipv4Addr| {
        let wanted = format!("{PEER} via {gateway} dev {interface} src {PUBLIC}");
        eventually(PATIENCE, &wanted, || {
            let shown = bed::route_to(&two.bed.here, PEER)?;
            ensure!(
                shown.starts_with(&wanted) && shown.lines().count() == 1,
                "{shown}"
            );
            anyhow::Ok(())
        })
    };
    until_route(INTERFACE, THERE)?;
    two.bed.wire.set_cut(Direction::BToA, true);
    two.until(INTERFACE, State::Down)?;
    until_route(MULTICAST, GATEWAY)?;
    two.bed.wire.set_cut(Direction::BToA, false);
    two.until(INTERFACE, State::Up)?;
    two.agent
        .cli(&["disconnect", &peer, "--interface", MULTICAST])?;
    until_route(INTERFACE, THERE)?;
    only_from(&two.bed.wire, &[PUBLIC])?;
    only_from(two.multicast()?, &[PUBLIC])
}
