//! Two hosts, an underlay, and a GRE tunnel over it with a kernel at each end.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::Counter;
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{self, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::gre::{Ends, TTL};
use dz_tests::harness::{Requirement, note};
use dz_tests::netns::Netns;
use dz_tests::tun::MTU;
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;

use crate::capture::{Capture, addresses};

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 3] = [
    Requirement::Root,
    Requirement::LinkKind("gre"),
    Requirement::Tool("ethtool"),
];
/// The underlay's device, at both ends.
pub(crate) const UNDER: &str = "under0";
/// Our address there: `local` of our tunnel.
pub(crate) const UNDER_HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The far end's.
pub(crate) const UNDER_THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The address allocated to us.
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
/// Another one of ours.
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
/// A second public address of ours, on the underlay.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// Those allocated to the far end.
pub(crate) const PEERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(10, 9, 0, 2),
    Ipv4Addr::new(10, 9, 0, 3),
];
/// How often each side sends. Emulated machines are slow.
pub(crate) const INTERVAL_MS: u32 = 200;
/// A session that is to survive everything may miss so many.
pub(crate) const PATIENT: u8 = 50;

/// One session: our address, and the peer's.
pub(crate) type Pair = (Ipv4Addr, Ipv4Addr);

/// Between the link's addresses, and between allocated ones.
pub(crate) const PAIRS: [Pair; 3] = [(HERE, THERE), (A, PEERS[0]), (B, PEERS[1])];

/// Both hosts.
pub(crate) struct Hosts {
    /// What our end has put on the underlay.
    pub(crate) from_here: Capture,
    pub(crate) here: Netns,
    pub(crate) there: Netns,
}

impl Hosts {
    /// With A and B on our end of the tunnel, and every peer's address on the other.
    pub(crate) fn new() -> Result<Self> {
        let (here, there) = (Netns::new("gre")?, Netns::new("gre-far")?);
        for netns in [&here, &there] {
            for name in ["all", "default"] {
                // What takes the underlay comes in by another interface than answers leave by.
                netns.command(&format!("sysctl -qw net.ipv4.conf.{name}.rp_filter=0"))?;
            }
        }
        let (a, b) = (format!("{UNDER_HERE}/30"), format!("{UNDER_THERE}/30"));
        veth::pair(&End::new(&here, UNDER, &a), &End::new(&there, UNDER, &b))?;
        let ends = Ends {
            local: UNDER_HERE,
            remote: UNDER_THERE,
        };
        let from_here = Capture::start(&there, UNDER, ends)?;
        let hosts = Self {
            from_here,
            here,
            there,
        };
        tunnel(&hosts.there, ends.swapped(), THERE)?;
        for peer in PEERS {
            address(&hosts.there, "add", peer)?;
        }
        hosts
            .there
            .ip(&format!("route add 10.8.0.0/24 dev {INTERFACE}"))?;
        hosts.create_tunnel()?;
        address(&hosts.here, "add", A)?;
        address(&hosts.here, "add", B)?;
        Ok(hosts)
    }

    /// Our end of the tunnel, with the link's address only.
    pub(crate) fn create_tunnel(&self) -> Result<()> {
        let ends = Ends {
            local: UNDER_HERE,
            remote: UNDER_THERE,
        };
        tunnel(&self.here, ends, HERE)
    }

    /// Has the far end's liveness packets to a public address of ours go into the tunnel: the tunnel
    /// itself goes to that address, too.
    pub(crate) fn public(&self, ours: Ipv4Addr) -> Result<()> {
        self.there.ip(&format!(
            "route replace {ours}/32 dev {INTERFACE} table 100"
        ))?;
        let rule = "ipproto 17 dport 44880 lookup 100"; // UDP; by name it would need /etc/protocols
        if !self.there.ip("rule show")?.contains("lookup 100") {
            self.there.ip(&format!("rule add {rule}"))?;
        }
        Ok(())
    }

    /// Deletes our end of the tunnel.
    pub(crate) fn delete_tunnel(&self) -> Result<()> {
        self.here
            .ip(&format!("link delete {INTERFACE}"))
            .map(|_| ())
    }

    /// A way to the peers beside the tunnel.
    pub(crate) fn route_under(&self) -> Result<()> {
        let line = format!("route add 10.9.0.0/24 via {UNDER_THERE} dev {UNDER}");
        self.here.ip(&line).map(|_| ())
    }

    /// Our agent.
    pub(crate) fn agent(&self, detect_mult: u8) -> Result<Agent> {
        agent(Home::new()?, &self.here, detect_mult)
    }

    /// A plain peer at an address of the far end.
    pub(crate) fn peer(&self, local: Ipv4Addr, detect_mult: u8) -> Result<UdpPeer> {
        let interval_us = INTERVAL_MS * 1_000;
        let timers = Timers {
            desired_min_tx_us: interval_us,
            required_min_rx_us: interval_us,
            detect_mult,
            // So that nobody has to wait for peers that have been alone for long.
            backoff_cap_us: 1_000_000,
            ..Timers::DEFAULT
        };
        let config = UdpPeerConfig {
            timers,
            rules: Rules::Deployed,
            ..UdpPeerConfig::new(local)
        };
        let peer = self.there.run(|| UdpPeer::spawn(config));
        peer.context("UDP peer")
    }

    /// The plain peers of all pairs, with their sessions.
    pub(crate) fn peers(&self, detect_mult: u8) -> Result<Vec<UdpPeer>> {
        let peer = |(ours, theirs): Pair| {
            let peer = self.peer(theirs, detect_mult)?;
            peer.add_session(ours);
            Ok(peer)
        };
        PAIRS.into_iter().map(peer).collect()
    }

    /// What our host has sent from an address since a mark, in the tunnel or beside it.
    pub(crate) fn sent_from(&self, source: Ipv4Addr, mark: usize) -> Result<Vec<Vec<u8>>> {
        let mut packets = self.from_here.inside(mark)?;
        packets.extend(self.beside(mark));
        packets.retain(|packet| addresses(packet).is_some_and(|(from, _)| from == source));
        Ok(packets)
    }

    /// What was on the underlay since a mark and is no GRE.
    pub(crate) fn beside(&self, mark: usize) -> Vec<Vec<u8>> {
        let mut packets = self.from_here.since(mark);
        packets.retain(|packet| !crate::capture::is_gre(packet));
        packets
    }
}

fn tunnel(netns: &Netns, ends: Ends, link: Ipv4Addr) -> Result<()> {
    let Ends { local, remote } = ends;
    for line in [
        format!("link add {INTERFACE} type gre local {local} remote {remote} ttl {TTL}"),
        format!("link set {INTERFACE} addrgenmode none"),
        format!("address add {link}/31 dev {INTERFACE} scope link"),
        format!("link set {INTERFACE} up"),
    ] {
        netns.ip(&line)?;
    }
    let shown = netns.ip(&format!("-o link show {INTERFACE}"))?;
    ensure!(shown.contains(&format!("mtu {MTU} ")), "{shown}");
    Ok(())
}

/// Adds an allocated address to a tunnel, or deletes it.
pub(crate) fn address(netns: &Netns, verb: &str, local: Ipv4Addr) -> Result<()> {
    netns
        .ip(&format!("address {verb} {local}/32 dev {INTERFACE}"))
        .map(|_| ())
}

/// An agent in a home.
pub(crate) fn agent(home: Home, netns: &Netns, detect_mult: u8) -> Result<Agent> {
    let interval = format!("{INTERVAL_MS}ms");
    let mult = detect_mult.to_string();
    let mut words = vec!["--interface", INTERFACE, "--metrics-listen=off"];
    words.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
    words.extend(["--detect-mult", &mult, "--backoff-cap=1s"]);
    Agent::start_in(home, netns, &words)
}

/// Connects pairs, as our end has them.
pub(crate) fn connect(agent: &Agent, pairs: &[Pair]) -> Result<()> {
    for (ours, theirs) in pairs {
        agent.cli(&["connect", &theirs.to_string(), "--local", &ours.to_string()])?;
    }
    Ok(())
}

/// The sessions in an agent's maps as (ours, theirs).
pub(crate) fn pair(entry: &SessionEntry) -> Pair {
    (entry.key.local.into(), entry.key.peer.into())
}

/// Waits until these are the sessions, all of them Up, each with its route and no other.
pub(crate) fn until_up(agent: &Agent, netns: &Netns, pairs: &[Pair]) -> Result<()> {
    let result = eventually(PATIENCE, &format!("Up: {pairs:?}"), || {
        let mut up: Vec<_> = bed::entries(agent.home())?
            .iter()
            .map(|entry| (pair(entry), entry.session.state))
            .collect();
        up.sort_by_key(|(pair, _)| *pair);
        let mut wanted: Vec<_> = pairs.iter().map(|pair| (*pair, State::Up)).collect();
        wanted.sort_by_key(|(pair, _)| *pair);
        ensure!(up == wanted, "{up:?}");
        let routes = netns.ip("route show proto 144")?;
        ensure!(routes.lines().count() == pairs.len(), "{routes}");
        for (ours, theirs) in pairs {
            let way = match *ours {
                // Not of the tunnel: the far end of its link is the gateway.
                UNDER_HERE | OTHER => format!("{theirs} via {THERE} dev {INTERFACE} "),
                _ => format!("{theirs} dev {INTERFACE} "),
            };
            let has = |line: &str| {
                line.starts_with(&way) && format!("{line} ").contains(&format!(" src {ours} "))
            };
            ensure!(routes.lines().any(has), "to {theirs}: {routes}");
        }
        anyhow::Ok(())
    });
    if result.is_err() {
        note("links", &netns.ip("-s link show")?);
    }
    result
}

/// What has been counted, whatever the address, also if it is gone now.
pub(crate) fn count(home: &Home, counter: Counter) -> Result<u64> {
    let maps = MapReader::from_pins(home.pin_dir())?;
    let blocks = (0..).map_while(|block| maps.counters(block).ok());
    Ok(blocks.map(|counters| counters.get(counter)).sum())
}

/// Transmissions that have failed.
pub(crate) fn failures(home: &Home) -> Result<u64> {
    let counters = [
        Counter::TxFailed,
        Counter::TxNoNeighbour,
        Counter::RxAnswerFailed,
    ];
    counters
        .into_iter()
        .map(|counter| count(home, counter))
        .sum()
}

/// Nothing that should have been sent was not.
pub(crate) fn nothing_failed(agent: &mut Agent) -> Result<()> {
    let failures = failures(agent.home())?;
    ensure!(failures == 0, "{failures} failures");
    let log = agent.process().log();
    let complaint = log.lines().find(|line| line.contains("unreachable"));
    ensure!(complaint.is_none(), "{complaint:?}");
    Ok(())
}
