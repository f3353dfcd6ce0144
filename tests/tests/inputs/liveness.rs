//! Liveness packets, good and bad, written and read by hand: nothing here is `dz-common`'s.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use dz_tests::frame::{Datagram, UdpChecksum, parse_udp};

use crate::peer::{INTERVAL, LOCAL, PORT, Peer};

pub(crate) const ADMIN_DOWN: u8 = 0;
pub(crate) const DOWN: u8 = 1;
pub(crate) const INIT: u8 = 2;
pub(crate) const UP: u8 = 3;

/// Names of the states, as `bpftool` shows them.
pub(crate) const STATES: [&str; 4] = ["AdminDown", "Down", "Init", "Up"];

/// The discriminator of every peer that a test plays.
pub(crate) const PEER_DISCR: u32 = 0x5eed_0001;
const MULTIPLIER: u8 = 3;
const DONT_FRAGMENT: u16 = 0x4000;
/// DSCP CS6 (RFC 4594).
const NETWORK_CONTROL: u8 = 0xc0;

/// A packet whose every field can be wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    pub(crate) version: u8,
    pub(crate) state: u8,
    pub(crate) multiplier: u8,
    pub(crate) length: u8,
    pub(crate) my_discr: u32,
    pub(crate) your_discr: u32,
    pub(crate) interval_us: u32,
    pub(crate) flags: u8,
    pub(crate) software: [u8; 4],
    pub(crate) reserved: [u8; 15],
}

impl Liveness {
    /// A sound packet of a peer that is Up and knows us as `your_discr`.
    pub(crate) fn new(your_discr: u32) -> Self {
        Self {
            version: 1,
            state: UP,
            multiplier: MULTIPLIER,
            length: 40,
            my_discr: PEER_DISCR,
            your_discr,
            interval_us: u32::try_from(INTERVAL.as_micros()).expect("ten minutes"),
            flags: 0,
            software: [0, 7, 1, 5],
            reserved: [0; 15],
        }
    }

    /// In another state.
    pub(crate) fn in_state(self, state: u8) -> Self {
        Self { state, ..self }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut bytes = vec![
            self.version << 5,
            self.state << 6,
            self.multiplier,
            self.length,
        ];
        bytes.extend(self.my_discr.to_be_bytes());
        bytes.extend(self.your_discr.to_be_bytes());
        bytes.extend(self.interval_us.to_be_bytes());
        bytes.extend(self.interval_us.to_be_bytes());
        bytes.push(self.flags);
        bytes.extend(self.software);
        bytes.extend(self.reserved);
        bytes
    }

    /// In a datagram from a peer to the address of its session.
    pub(crate) fn from(&self, peer: Ipv4Addr) -> Datagram {
        Datagram::new(
            SocketAddrV4::new(peer, PORT),
            SocketAddrV4::new(LOCAL, PORT),
            self.build(),
        )
    }
}

/// What the agent sends to a peer, every byte of it: all that the tests do not choose follows from
/// the configuration.
pub(crate) fn ours(peer: &Peer, state: u8, peer_discr: u32) -> Vec<u8> {
    let packet = Liveness {
        state,
        my_discr: peer.local_discr,
        software: peer.software,
        ..Liveness::new(peer_discr)
    };
    Datagram {
        id: 0,
        tos: NETWORK_CONTROL,
        fragment: DONT_FRAGMENT,
        ..Datagram::new(
            SocketAddrV4::new(LOCAL, PORT),
            SocketAddrV4::new(peer.address, PORT),
            packet.build(),
        )
    }
    .build()
}

/// Reads the first packet of a session: Down, and no discriminator of the peer's.
pub(crate) fn first_packet(packet: &[u8]) -> Result<Peer> {
    let parsed = parse_udp(packet).with_context(|| format!("no datagram: {packet:02x?}"))?;
    ensure!(parsed.udp_checksum == UdpChecksum::Good, "{parsed:?}");
    let payload = &parsed.payload;
    ensure!(payload.len() == 40, "{} bytes of payload", payload.len());
    let local_discr = [payload[4], payload[5], payload[6], payload[7]];
    let peer = Peer {
        address: *parsed.dst.ip(),
        local_discr: u32::from_be_bytes(local_discr),
        software: [payload[21], payload[22], payload[23], payload[24]],
    };
    ensure!(peer.local_discr != 0, "a discriminator of 0");
    let expected = ours(&peer, DOWN, 0);
    ensure!(
        packet == expected,
        "first packet\n{packet:02x?}\n{expected:02x?} expected"
    );
    Ok(peer)
}
