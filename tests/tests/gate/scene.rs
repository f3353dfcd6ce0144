//! An agent before a tunnel, and an underlay that leads to the peer's address as well.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::datapath::MapReader;
use dz_common::counters::{Counter, Counters};
use dz_common::map::SessionEntry;
use dz_common::packet::State;
use dz_common::session::Timers;
use dz_tests::agent::{Agent, Home};
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::frame::parse_udp;
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::raw::RawSocket;
use dz_tests::receive::Receive;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{Rules, UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use dz_tests::wire::{Direction, TunWire};
use etherparse::EtherType;

/// The other interface, at both ends.
pub(crate) const UNDER: &str = "under0";
/// Our address there.
pub(crate) const UNDER_HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The far end's.
pub(crate) const UNDER_THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Where data goes.
pub(crate) const DATA: u16 = 9_000;
/// How often both sides send, ms.
pub(crate) const INTERVAL_MS: u32 = 100;

/// What the tunnel is, and where the agent receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TUN device.
    Layer3,
    /// A veth device, TC ingress.
    Ethernet,
    /// A veth device, XDP in its driver.
    Xdp,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Layer3, Self::Ethernet, Self::Xdp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Layer3 => "layer3",
            Self::Ethernet => "ethernet",
            Self::Xdp => "xdp",
        }
    }

    const fn attach(self) -> &'static str {
        match self {
            Self::Layer3 | Self::Ethernet => "tc",
            Self::Xdp => "xdp",
        }
    }
}

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 3] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("ethtool"),
];

enum Tunnel {
    Layer3(TunWire),
    Ethernet { far: RawSocket, _pass: Option<Bare> },
}

/// Two hosts, the tunnel and the underlay between them.
pub(crate) struct Hosts {
    tunnel: Tunnel,
    under: RawSocket,
    /// IPv4 packets that have come out of the Ethernet tunnel, and of the underlay.
    seen: Mutex<[Vec<Vec<u8>>; 2]>,
    pub(crate) here: Netns,
    pub(crate) there: Netns,
    kind: Kind,
}

impl Hosts {
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let (here, there) = (Netns::new("gate")?, Netns::new("gate-far")?);
        for netns in [&here, &there] {
            // What is diverted comes in by another interface than answers leave by.
            for name in ["all", "default"] {
                netns.command(&format!("sysctl -qw net.ipv4.conf.{name}.rp_filter=0"))?;
            }
        }
        let tunnel = tunnel(&here, &there, kind)?;
        let under = under(&here, &there)?;
        Ok(Self {
            tunnel,
            under,
            seen: Mutex::default(),
            here,
            there,
            kind,
        })
    }

    /// A route to the peer by the underlay, in second place.
    pub(crate) fn route_under(&self) -> Result<()> {
        self.here.ip(&format!(
            "route replace {THERE}/32 via {UNDER_THERE} dev {UNDER} metric 200"
        ))?;
        Ok(())
    }

    /// Somebody else's route to the peer into the tunnel, which no withdrawal of ours takes away:
    /// only the gate keeps packets out.
    pub(crate) fn route_into_tunnel(&self) -> Result<()> {
        self.here.ip(&format!(
            "route replace {THERE}/32 dev {INTERFACE} proto 99 metric 50"
        ))?;
        Ok(())
    }

    pub(crate) fn run_options<'a>(&self, options: &[&'a str]) -> Vec<&'a str> {
        let mut run = vec!["--interface", INTERFACE, "--metrics-listen=off"];
        run.extend(["--max-sessions=128", "--attach", self.kind.attach()]);
        run.extend(["--tx-interval=100ms", "--rx-interval=100ms"]);
        run.extend(options);
        run
    }

    pub(crate) fn agent(&self, options: &[&str]) -> Result<Agent> {
        self.agent_in(Home::new()?, options)
    }

    pub(crate) fn agent_in(&self, home: Home, options: &[&str]) -> Result<Agent> {
        Agent::start_in(home, &self.here, &self.run_options(options))
    }

    /// A plain peer with a session to us.
    pub(crate) fn peer(&self) -> Result<UdpPeer> {
        let interval_us = INTERVAL_MS * 1_000;
        let config = UdpPeerConfig {
            timers: Timers {
                desired_min_tx_us: interval_us,
                required_min_rx_us: interval_us,
                ..Timers::DEFAULT
            },
            rules: Rules::Deployed,
            ..UdpPeerConfig::new(THERE)
        };
        let peer = self.there.run(|| UdpPeer::spawn(config))?;
        peer.add_session(HERE);
        Ok(peer)
    }

    /// A socket here.
    pub(crate) fn socket(&self, source: Ipv4Addr) -> Result<UdpSocket> {
        let socket = self.here.run(|| UdpSocket::bind((source, 0)));
        socket.with_context(|| format!("a socket of {source}"))
    }

    /// The data that has come out of the tunnel at the far end, by sequence number.
    pub(crate) fn in_tunnel(&self) -> Result<BTreeSet<u64>> {
        self.look()?;
        let of = |packet: &[u8]| sequence(packet);
        if let Tunnel::Layer3(wire) = &self.tunnel {
            let records = wire.records().into_iter();
            let ours = records.filter(|record| record.direction == Direction::AToB);
            return Ok(ours.filter_map(|record| of(&record.packet)).collect());
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen[0].iter().filter_map(|packet| of(packet)).collect())
    }

    /// The data that has come out of the underlay at the far end, by sequence number.
    pub(crate) fn in_underlay(&self) -> Result<BTreeSet<u64>> {
        self.look()?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen[1]
            .iter()
            .filter_map(|packet| sequence(packet))
            .collect())
    }

    /// IPv4 packets to the peer that have come out of the underlay, whatever is in them.
    pub(crate) fn diverted(&self, protocol: u8) -> Result<usize> {
        self.look()?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |packet: &&Vec<u8>| is_for_peer(packet, protocol);
        Ok(seen[1].iter().filter(ours).count())
    }

    /// Those of one source, whatever the protocol.
    pub(crate) fn diverted_from(&self, source: Ipv4Addr) -> Result<usize> {
        self.look()?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |packet: &&Vec<u8>| packet.get(12..16) == Some(&source.octets()[..]);
        Ok(seen[1].iter().filter(of).count())
    }

    /// IPv4 packets to the peer that have come out of the tunnel, whatever is in them.
    pub(crate) fn tunnelled(&self, protocol: u8) -> Result<usize> {
        self.look()?;
        if let Tunnel::Layer3(wire) = &self.tunnel {
            let records = wire.records().into_iter();
            let ours = records.filter(|record| record.direction == Direction::AToB);
            return Ok(ours
                .filter(|record| is_for_peer(&record.packet, protocol))
                .count());
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |packet: &&Vec<u8>| is_for_peer(packet, protocol);
        Ok(seen[0].iter().filter(ours).count())
    }

    /// Takes what has arrived, before a buffer is full.
    pub(crate) fn look(&self) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let [tunnel, under] = &mut *seen;
        if let Tunnel::Ethernet { far, .. } = &self.tunnel {
            take(far, tunnel)?;
        }
        take(&self.under, under)
    }
}

fn take(socket: &RawSocket, packets: &mut Vec<Vec<u8>>) -> Result<()> {
    while let Some(frame) = socket.try_recv()? {
        // Headers are all that is looked at, and sequence numbers behind them.
        let end = frame.len().min(14 + 64);
        packets.extend(frame.get(14..end).map(<[u8]>::to_vec));
    }
    Ok(())
}

fn is_for_peer(packet: &[u8], protocol: u8) -> bool {
    packet.get(9) == Some(&protocol) && packet.get(16..20) == Some(&THERE.octets()[..])
}

/// The sequence number of a data packet.
fn sequence(packet: &[u8]) -> Option<u64> {
    let parsed = parse_udp(packet)?;
    if parsed.dst.port() != DATA || *parsed.dst.ip() != THERE {
        return None;
    }
    Some(u64::from_be_bytes(
        parsed.payload.get(..8)?.try_into().ok()?,
    ))
}

fn tunnel(here: &Netns, there: &Netns, kind: Kind) -> Result<Tunnel> {
    if kind == Kind::Layer3 {
        let a = Tun::new(here, INTERFACE, &[&format!("{HERE}/31")])?;
        let b = Tun::new(there, INTERFACE, &[&format!("{THERE}/31")])?;
        return Ok(Tunnel::Layer3(TunWire::connect(a, b, Duration::ZERO)?));
    }
    let (a, b) = (format!("{HERE}/31"), format!("{THERE}/31"));
    veth::pair(
        &End::new(here, INTERFACE, &a),
        &End::new(there, INTERFACE, &b),
    )?;
    let pass = match kind {
        // Without it the driver has nowhere to put what XDP_TX sends.
        Kind::Xdp => Some(Bare::attach(there, INTERFACE, Program::EmptyXdp)?),
        _ => None,
    };
    neighbours(here, there, INTERFACE, HERE, THERE)?;
    Ok(Tunnel::Ethernet {
        far: RawSocket::open_for(there, INTERFACE, EtherType::IPV4)?,
        _pass: pass,
    })
}

fn under(here: &Netns, there: &Netns) -> Result<RawSocket> {
    let (a, b) = (format!("{UNDER_HERE}/30"), format!("{UNDER_THERE}/30"));
    veth::pair(&End::new(here, UNDER, &a), &End::new(there, UNDER, &b))?;
    neighbours(here, there, UNDER, UNDER_HERE, UNDER_THERE)?;
    RawSocket::open_for(there, UNDER, EtherType::IPV4)
}

/// No ARP: what is counted and captured is only what the test sends.
fn neighbours(
    here: &Netns,
    there: &Netns,
    name: &str,
    ours: Ipv4Addr,
    theirs: Ipv4Addr,
) -> Result<()> {
    for (at, far, address) in [(here, there, theirs), (there, here, ours)] {
        let mac = veth::mac_text(veth::mac(far, name)?);
        at.ip(&format!(
            "neigh replace {address} lladdr {mac} dev {name} nud permanent"
        ))?;
    }
    Ok(())
}

/// Connects to the peer.
pub(crate) fn connect(agent: &Agent, options: &[&str]) -> Result<()> {
    let (here, there) = (HERE.to_string(), THERE.to_string());
    let mut words = vec!["connect", &there, "--local", &here];
    words.extend(options);
    agent.cli(&words)?;
    Ok(())
}

/// The pinned maps of an agent.
pub(crate) fn maps(home: &Home) -> Result<MapReader> {
    Ok(MapReader::from_pins(home.pin_dir())?)
}

/// What the gate has counted, of all addresses.
pub(crate) fn counted(maps: &MapReader) -> Result<Vec<(&'static str, u64)>> {
    let mut sum: Counters = maps.counters(0)?;
    for (_, block) in maps.locals()? {
        sum.add(&maps.counters(block)?);
    }
    let gate = Counter::ALL
        .iter()
        .filter(|counter| counter.name().starts_with("gate_"));
    Ok(gate
        .map(|counter| (counter.name(), sum.get(*counter)))
        .filter(|(name, count)| *count > 0 && *name != "gate_not_ipv4")
        .collect())
}

/// One of them.
pub(crate) fn count(maps: &MapReader, counter: Counter) -> Result<u64> {
    let all = counted(maps)?;
    let found = all.iter().find(|(name, _)| *name == counter.name());
    Ok(found.map_or(0, |(_, count)| *count))
}

/// The one session.
pub(crate) fn entry(maps: &MapReader) -> Result<SessionEntry> {
    let mut sessions = maps.sessions()?;
    ensure!(sessions.len() == 1, "{} sessions", sessions.len());
    sessions.pop().context("there is one")
}

/// Waits until the one session is in a state.
pub(crate) fn until(maps: &MapReader, state: State) -> Result<()> {
    eventually(PATIENCE, state.name(), || {
        let entry = entry(maps)?;
        ensure!(entry.session.state == state, "{:?}", entry.session);
        anyhow::Ok(())
    })
}

/// Waits until the way around the peer is this interface, 0 = none.
pub(crate) fn until_detour(hosts: &Hosts, maps: &MapReader, ifindex: u32) -> Result<()> {
    let tunnel = hosts.here.ifindex(INTERFACE)?;
    eventually(PATIENCE, &format!("the way around: {ifindex}"), || {
        let sessions = maps.sessions()?.into_iter();
        let mut here = sessions.filter(|entry| entry.key.ifindex == tunnel);
        let entry = here.next().context("no session")?;
        ensure!(entry.detour == ifindex, "{entry:?}");
        anyhow::Ok(())
    })
}

/// Waits until the address of the tunnel may not, or may, be seen elsewhere.
pub(crate) fn until_confined(maps: &MapReader, address: Ipv4Addr, confined: bool) -> Result<()> {
    eventually(PATIENCE, &format!("{address} confined: {confined}"), || {
        let found = maps.confined()?;
        let is = found.iter().any(|key| key.addr == address.octets());
        ensure!(is == confined, "{found:?}");
        anyhow::Ok(())
    })
}

/// Waits until all of these have come out, and says what else did.
pub(crate) fn arrived(
    what: &str,
    expected: &BTreeSet<u64>,
    look: impl Fn() -> Result<BTreeSet<u64>>,
) -> Result<()> {
    eventually(PATIENCE, &format!("all that goes {what}"), || {
        let seen = look()?;
        let missing: Vec<_> = expected.difference(&seen).take(5).collect();
        ensure!(missing.is_empty(), "missing {missing:?}");
        anyhow::Ok(())
    })?;
    let seen = look()?;
    let surplus: Vec<_> = seen.difference(expected).take(5).collect();
    ensure!(surplus.is_empty(), "{what}, and should not: {surplus:?}");
    Ok(())
}
