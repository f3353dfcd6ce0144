//! One agent on one interface, with the other end of the wire in the test's hand.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::frame::{self, Datagram};
use dz_tests::harness::Requirement;
use dz_tests::netns::Netns;
use dz_tests::raw::RawSocket;
use dz_tests::receive::Receive;
use dz_tests::tun::Tun;
use dz_tests::veth::{self, End};
use etherparse::{EtherType, Ethernet2Header};

use crate::liveness::{self, Liveness};
use crate::peer::{LOCAL, PORT, Peer};

/// For what happens at once, on a machine that may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Another address of the same interface.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// Nobody that the agent knows.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 250);
/// The interface.
pub(crate) const DEVICE: &str = "doublezero0";

/// [`crate::peer::INTERVAL`], small maps, and nobody held: that would end in the middle of another test.
const OPTIONS: [&str; 7] = [
    "--damping=off",
    "--metrics-listen=off",
    "--max-sessions=128",
    "--interval-ceiling=10min",
    "--tx-interval=10min",
    "--rx-interval=10min",
    "--backoff-cap=10min",
];
const SENTINEL_PORT: u16 = 40001;

/// Where the program under test is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// TC ingress of a TUN device.
    TcLayer3,
    /// TC ingress of a veth device.
    TcEthernet,
    /// XDP in the veth driver.
    XdpNative,
    /// XDP in the kernel's generic path.
    XdpGeneric,
}

impl Attach {
    pub(crate) const ALL: [Self; 4] = [
        Self::TcLayer3,
        Self::TcEthernet,
        Self::XdpNative,
        Self::XdpGeneric,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TcLayer3 => "tc_layer3",
            Self::TcEthernet => "tc_ethernet",
            Self::XdpNative => "xdp_native",
            Self::XdpGeneric => "xdp_generic",
        }
    }

    pub(crate) fn is_ethernet(self) -> bool {
        self != Self::TcLayer3
    }

    pub(crate) const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpNative | Self::XdpGeneric)
    }

    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::TcLayer3 | Self::TcEthernet => "tc",
            Self::XdpNative => "xdp",
            Self::XdpGeneric => "xdp-generic",
        }
    }

    pub(crate) fn requirements(self) -> Vec<Requirement> {
        let wire = if self.is_ethernet() {
            Requirement::Tool("ethtool")
        } else {
            Requirement::Tun
        };
        vec![Requirement::Root, Requirement::Tool("bpftool"), wire]
    }
}

enum Wire {
    Layer3(Tun),
    Ethernet {
        raw: RawSocket,
        near: [u8; 6],
        far: [u8; 6],
        _far: Netns,
        _pass: Option<Bare>,
    },
}

/// The agent and everything around it.
pub(crate) struct Bed {
    pub(crate) attach: Attach,
    pub(crate) agent: Agent,
    wire: Wire,
    /// What the programs let pass, by EtherType; IPv4 first.
    above: Vec<RawSocket>,
    _sentinel: UdpSocket,
    /// IPv4 packets that have come out of the host so far.
    pub(crate) came_out: Cell<u64>,
    pub(crate) netns: Netns,
}

impl Bed {
    pub(crate) fn new(attach: Attach, arguments: &[&str]) -> Result<Self> {
        let netns = Netns::new("inputs")?;
        let wire = if attach.is_ethernet() {
            ethernet_wire(&netns, attach)?
        } else {
            Wire::Layer3(Tun::new(&netns, DEVICE, &["10.77.0.1/24"])?)
        };
        netns.ip(&format!("address add {SECOND}/24 dev {DEVICE}"))?;
        netns.ip(&format!("address add fd77::1/64 dev {DEVICE} nodad"))?;
        let above = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP]
            .iter()
            .map(|ethertype| RawSocket::open_for(&netns, DEVICE, *ethertype))
            .collect::<Result<_>>()?;
        // The sentinel has a socket to arrive at, so that it causes no ICMP.
        let sentinel = netns.run(|| UdpSocket::bind((LOCAL, SENTINEL_PORT)))?;
        let mut run = vec!["--interface", DEVICE, "--attach", attach.argument()];
        run.extend(OPTIONS);
        run.extend(arguments);
        let agent = Agent::start(&netns, &run)?;
        Ok(Self {
            attach,
            agent,
            wire,
            above,
            _sentinel: sentinel,
            came_out: Cell::new(0),
            netns,
        })
    }

    /// Connects peers (all at once) and takes their first packets off the wire.
    pub(crate) fn connect(&self, peers: &[Ipv4Addr]) -> Result<Vec<Peer>> {
        self.connect_with(peers, &[])
    }

    /// The same with further words of the command.
    pub(crate) fn connect_with(&self, peers: &[Ipv4Addr], more: &[&str]) -> Result<Vec<Peer>> {
        let names: Vec<String> = peers.iter().map(Ipv4Addr::to_string).collect();
        if let Wire::Ethernet { far, .. } = &self.wire {
            let mac = veth::mac_text(*far);
            for name in &names {
                self.netns.ip(&format!(
                    "neigh add {name} lladdr {mac} dev {DEVICE} nud permanent"
                ))?;
            }
        }
        let local = LOCAL.to_string();
        let mut words = vec!["connect"];
        words.extend(names.iter().map(String::as_str));
        words.extend(["--local", &local]);
        words.extend(more);
        self.agent.cli(&words)?;
        let mut known = vec![None; peers.len()];
        for _ in peers {
            let packet = self.recv(PATIENCE)?;
            let packet = packet.ok_or_else(|| anyhow::anyhow!("no first packet of a session"))?;
            let peer = liveness::first_packet(&packet)?;
            let index = peers.iter().position(|address| *address == peer.address);
            let index = index.ok_or_else(|| anyhow::anyhow!("a packet to {}", peer.address))?;
            known[index] = Some(peer);
        }
        let known: Option<Vec<Peer>> = known.into_iter().collect();
        known.ok_or_else(|| anyhow::anyhow!("a peer was greeted twice, another not at all"))
    }

    /// A frame from the far end to the near one with this IPv4 packet in it, not padded.
    pub(crate) fn frame(&self, packet: &[u8]) -> Vec<u8> {
        self.frame_of(EtherType::IPV4, packet)
    }

    /// The same for another EtherType, which a layer-3 wire does not carry.
    pub(crate) fn frame_of(&self, ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
        match &self.wire {
            Wire::Layer3(_) => packet.to_vec(),
            Wire::Ethernet { near, far, .. } => {
                frame::ethernet(*near, *far, ethertype, packet, false)
            }
        }
    }

    /// The same from another station on the wire, if it has any.
    pub(crate) fn frame_from(&self, source: [u8; 6], packet: &[u8]) -> Vec<u8> {
        match &self.wire {
            Wire::Layer3(_) => packet.to_vec(),
            Wire::Ethernet { near, .. } => {
                frame::ethernet(*near, source, EtherType::IPV4, packet, false)
            }
        }
    }

    /// Sends a frame into the interface.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        match &self.wire {
            Wire::Layer3(tun) => tun.send(frame)?,
            Wire::Ethernet { raw, .. } => raw.send(frame)?,
        }
        Ok(())
    }

    /// Takes the next IPv4 packet that comes out of the host. On Ethernet its header must lead to
    /// the far end, and nothing may follow the packet.
    pub(crate) fn recv(&self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let packet = match &self.wire {
                Wire::Layer3(tun) => tun.recv(left)?,
                Wire::Ethernet { raw, near, far, .. } => match raw.recv(left)? {
                    Some(frame) => Some(unwrap(&frame, *far, *near)?),
                    None => None,
                },
            };
            match packet {
                // Multicast listener reports of IPv6 and ARP replies are the host's own.
                Some(packet) if packet.first().is_none_or(|first| first >> 4 != 4) => {}
                Some(packet) => {
                    self.came_out.set(self.came_out.get() + 1);
                    return Ok(Some(packet));
                }
                None => return Ok(None),
            }
        }
    }

    /// Sends the datagram that tells when everything before it is through, and returns what has
    /// passed the programs before it. It counts as `pass_other_port`.
    pub(crate) fn sweep(&self) -> Result<Vec<Vec<u8>>> {
        let to = SocketAddrV4::new(LOCAL, SENTINEL_PORT);
        let sentinel =
            self.frame(&Datagram::new(SocketAddrV4::new(STRANGER, PORT), to, *b"sentinel").build());
        self.send(&sentinel)?;
        let mut passed = Vec::new();
        let mut sockets = self.above.iter();
        if let Some(ipv4) = sockets.next() {
            ipv4.recv_until(PATIENCE, "the sentinel above the programs", |frame| {
                if *frame == *sentinel {
                    return Some(());
                }
                passed.push(frame.to_vec());
                None
            })?;
        }
        for socket in sockets {
            while let Some(frame) = socket.try_recv()? {
                passed.push(frame);
            }
        }
        Ok(passed)
    }

    /// A sound packet of a peer, Up and echoing our discriminator.
    pub(crate) fn liveness(&self, peer: &Peer) -> Liveness {
        Liveness::new(peer.local_discr)
    }
}

/// The IPv4 packet (or whatever else) in a frame; an error if an IPv4 frame's header is wrong.
fn unwrap(frame: &[u8], dst: [u8; 6], src: [u8; 6]) -> Result<Vec<u8>> {
    let parted = Ethernet2Header::from_slice(frame);
    let (header, packet) =
        parted.with_context(|| format!("a frame without a header: {frame:02x?}"))?;
    if header.ether_type != EtherType::IPV4 {
        return Ok(Vec::new());
    }
    ensure!(
        header.destination == dst && header.source == src,
        "Ethernet addresses {header:02x?} are not those of an answer"
    );
    Ok(packet.to_vec())
}

fn ethernet_wire(netns: &Netns, attach: Attach) -> Result<Wire> {
    let far_netns = Netns::new("far")?;
    let near = End::new(netns, DEVICE, "10.77.0.1/24");
    let far = End {
        address: None,
        ..End::new(&far_netns, "far0", "")
    };
    veth::pair(&near, &far)?;
    let pass = match attach {
        // Without it the driver has nowhere to put what XDP_TX sends.
        Attach::XdpNative => Some(Bare::attach(&far_netns, "far0", Program::EmptyXdp)?),
        _ => None,
    };
    Ok(Wire::Ethernet {
        raw: RawSocket::open(&far_netns, "far0")?,
        near: veth::mac(netns, DEVICE)?,
        far: veth::mac(&far_netns, "far0")?,
        _far: far_netns,
        _pass: pass,
    })
}
