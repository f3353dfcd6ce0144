//! An agent, two peers at the far end of a wire, and a way to put packets on it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_common::session::{Session, Timers};
use dz_tests::agent::{Agent, Home};
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::{self, INTERFACE, PATIENCE, PATIENT_MULT};
use dz_tests::frame::ethernet;
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::raw::RawSocket;
use dz_tests::tun::Tun;
use dz_tests::udp_peer::{Rules, Snapshot, UdpPeer, UdpPeerConfig};
use dz_tests::veth::{self, End};
use dz_tests::wait::eventually;
use dz_tests::wire::{Direction, TunWire};
use etherparse::EtherType;

/// Our address.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The peer in whose name others send.
pub(crate) const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The peer that is left alone.
pub(crate) const WITNESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// Both directions, ms. With [`PATIENT_MULT`] sessions go Down after two seconds.
pub(crate) const INTERVAL_MS: u32 = 100;
pub(crate) const DETECT: Duration = Duration::from_millis(INTERVAL_MS as u64 * PATIENT_MULT as u64);
/// A station on the wire that is nobody's.
pub(crate) const ELSEWHERE: [u8; 6] = [2, 0xdb, 0xbb, 0, 0, 9];

/// A wire, and where on it our program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// A TUN device, TC.
    Layer3,
    /// A veth pair, TC.
    Ethernet,
    /// A veth pair, XDP in the driver.
    Xdp,
}

impl Attach {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Layer3 => "layer3",
            Self::Ethernet => "ethernet",
            Self::Xdp => "xdp",
        }
    }

    pub(crate) const fn needs(self) -> [Requirement; 2] {
        let wire = match self {
            Self::Layer3 => Requirement::Tun,
            Self::Ethernet | Self::Xdp => Requirement::Tool("ethtool"),
        };
        [Requirement::Root, wire]
    }
}

/// What lies between the namespaces.
pub(crate) enum Wire {
    Layer3(TunWire),
    Ethernet {
        raw: RawSocket,
        near: [u8; 6],
        _pass: Option<Bare>,
    },
}

impl Wire {
    /// Puts a packet on the wire, towards us; on Ethernet it comes from a station that is not the
    /// peer's.
    pub(crate) fn inject(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Layer3(wire) => wire.inject(Direction::BToA, packet),
            Self::Ethernet { raw, near, .. } => {
                raw.send(&ethernet(*near, ELSEWHERE, EtherType::IPV4, packet, false))
            }
        }
    }
}

/// Everything.
pub(crate) struct Scene {
    pub(crate) here: Netns,
    pub(crate) there: Netns,
    pub(crate) wire: Arc<Wire>,
    attach: Attach,
}

impl Scene {
    pub(crate) fn new(attach: Attach) -> Result<Self> {
        let (here, there) = (Netns::new("spoofed")?, Netns::new("far")?);
        let wire = if attach == Attach::Layer3 {
            let near = Tun::new(&here, INTERFACE, &["10.77.0.1/24"])?;
            let far = Tun::new(&there, INTERFACE, &["10.77.0.2/24"])?;
            Wire::Layer3(TunWire::connect(near, far, Duration::ZERO)?)
        } else {
            let near = End::new(&here, INTERFACE, "10.77.0.1/24");
            let far = End::new(&there, INTERFACE, "10.77.0.2/24");
            veth::pair(&near, &far)?;
            let pass = match attach {
                // Without it the driver has nowhere to put what XDP_TX sends.
                Attach::Xdp => Some(Bare::attach(&there, INTERFACE, Program::EmptyXdp)?),
                _ => None,
            };
            Wire::Ethernet {
                raw: RawSocket::open(&there, INTERFACE)?,
                near: veth::mac(&here, INTERFACE)?,
                _pass: pass,
            }
        };
        there.ip(&format!("address add {WITNESS}/24 dev {INTERFACE}"))?;
        Ok(Self {
            here,
            there,
            wire: Arc::new(wire),
            attach,
        })
    }

    /// An agent that is connected to both peers.
    pub(crate) fn agent(&self) -> Result<Agent> {
        let agent = self.agent_alone()?;
        self.connect(&agent, &[VICTIM, WITNESS])?;
        Ok(agent)
    }

    pub(crate) fn agent_alone(&self) -> Result<Agent> {
        let attach = if self.attach == Attach::Xdp {
            "xdp"
        } else {
            "tc"
        };
        let (interval, mult) = (format!("{INTERVAL_MS}ms"), PATIENT_MULT.to_string());
        let mut words = vec!["--interface", INTERFACE, "--attach", attach];
        words.extend(["--tx-interval", &interval, "--rx-interval", &interval]);
        // Before 6.6 a filter stays when the pins are gone, and goes on answering for so long.
        words.extend(["--detect-mult", &mult, "--restart-grace=10s"]);
        Agent::start_in(Home::new()?, &self.here, &words)
    }

    pub(crate) fn connect(&self, agent: &Agent, peers: &[Ipv4Addr]) -> Result<()> {
        let local = LOCAL.to_string();
        let peers: Vec<_> = peers.iter().map(Ipv4Addr::to_string).collect();
        let mut words = vec!["connect", "--local", &local];
        words.extend(peers.iter().map(String::as_str));
        agent.cli(&words)?;
        Ok(())
    }

    pub(crate) fn peer(&self, address: Ipv4Addr, rules: Rules) -> Result<UdpPeer> {
        let config = UdpPeerConfig {
            rules,
            timers: Timers {
                desired_min_tx_us: INTERVAL_MS * 1_000,
                required_min_rx_us: INTERVAL_MS * 1_000,
                detect_mult: PATIENT_MULT,
                // Not the deployed minute: what has to wait for it need not keep tests waiting.
                backoff_cap_us: 1_000_000,
                ..Timers::DEFAULT
            },
            ..UdpPeerConfig::new(address)
        };
        let peer = self.there.run(|| UdpPeer::spawn(config)).context("peer")?;
        peer.add_session(LOCAL);
        Ok(peer)
    }
}

/// Our session with a peer.
pub(crate) fn ours(home: &Home, peer: Ipv4Addr) -> Result<Session> {
    let entries = bed::entries(home)?.into_iter();
    let mut with = entries.filter(|entry| entry.key.peer == peer.octets());
    Ok(with.next().context("no session")?.session)
}

/// The peer's session with us.
pub(crate) fn theirs(peer: &UdpPeer) -> Result<Snapshot> {
    peer.session(LOCAL).context("the peer has no session")
}

/// Waits until our session with a peer is in a state.
pub(crate) fn until(home: &Home, peer: Ipv4Addr, state: State) -> Result<Session> {
    eventually(PATIENCE, &format!("{peer} {}", state.name()), || {
        let session = ours(home, peer)?;
        ensure!(session.state == state, "{session:?}");
        anyhow::Ok(session)
    })
}

/// Waits until a session is Up at both ends, and each knows the other as it is now.
pub(crate) fn until_up(home: &Home, address: Ipv4Addr, peer: &UdpPeer) -> Result<Session> {
    eventually(PATIENCE, &format!("{address} Up at both ends"), || {
        let (ours, theirs) = (ours(home, address)?, theirs(peer)?.session);
        let up = ours.state == State::Up && theirs.state == State::Up;
        let known = ours.peer_discr == theirs.local_discr && theirs.peer_discr == ours.local_discr;
        ensure!(up && known, "{ours:?}\n{theirs:?}");
        anyhow::Ok(ours)
    })
}
