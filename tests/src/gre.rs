//! GRE over IPv4 (RFC 2784) as one end of a tunnel puts it on its underlay: taken off with every
//! field checked, put on for the way back. Without the help of the code under test.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};

use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, internet_checksum};

/// The tunnel's `ttl`.
pub const TTL: u8 = 64;
/// Protocol number of GRE.
const PROTOCOL: u8 = 47;
/// An IPv4 header without options.
const IP_HEADER: usize = 20;
/// A GRE header without checksum, key or sequence number.
const GRE_HEADER: usize = 4;
/// What the tunnel adds to a packet, bytes.
pub const OVERHEAD: usize = IP_HEADER + GRE_HEADER;
/// Fragment flag and offset: a tunnel of MTU 1476 over one of 1500 never fragments.
const FRAGMENT: u16 = 0x3fff;

/// The outer addresses, as the tunnel's own host has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// `local` of the tunnel.
    pub local: Ipv4Addr,
    /// `remote` of the tunnel.
    pub remote: Ipv4Addr,
}

impl Ends {
    /// The same tunnel as its other end has it.
    #[must_use]
    pub const fn swapped(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
        }
    }

    /// What the tunnel's host has sent, without its outer headers.
    ///
    /// # Errors
    /// What is wrong with these: anything but IPv4 from `local` to `remote`, TTL 64, whole, with
    /// the right length and checksum, and a GRE header without any flag whose protocol is that of the
    /// packet inside.
    pub fn unwrap<'p>(&self, packet: &'p [u8]) -> anyhow::Result<&'p [u8]> {
        let (header, rest) = packet
            .split_first_chunk::<IP_HEADER>()
            .context("shorter than an IPv4 header")?;
        ensure!(header[0] == 0x45, "not IPv4 without options: {header:02x?}");
        let total = usize::from(be16(header, 2));
        ensure!(total == packet.len(), "total length {total}");
        ensure!(be16(header, 6) & FRAGMENT == 0, "a fragment");
        ensure!(header[8] == TTL, "TTL {}", header[8]);
        ensure!(header[9] == PROTOCOL, "protocol {}", header[9]);
        ensure!(internet_checksum(&[header]) == 0, "header checksum wrong");
        let (from, to) = (address(header, 12), address(header, 16));
        ensure!(
            (from, to) == (self.local, self.remote),
            "from {from} to {to} instead of from {} to {}",
            self.local,
            self.remote
        );
        let (gre, inner) = rest
            .split_first_chunk::<GRE_HEADER>()
            .context("shorter than a GRE header")?;
        ensure!(
            be16(gre, 0) == 0,
            "GRE flags and version {:#06x}",
            be16(gre, 0)
        );
        let protocol = be16(gre, 2);
        ensure!(
            ethertype(inner) == Some(protocol),
            "GRE protocol {protocol:#06x} before {inner:02x?}"
        );
        Ok(inner)
    }

    /// A packet as the other end sends it to the tunnel's host.
    ///
    /// # Errors
    /// The packet is no IP packet, or longer than IPv4 allows.
    pub fn wrap_back(&self, inner: &[u8]) -> io::Result<Vec<u8>> {
        let ethertype = ethertype(inner).ok_or(ErrorKind::InvalidInput)?;
        let total = u16::try_from(OVERHEAD + inner.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let mut packet = Vec::with_capacity(usize::from(total));
        packet.extend([0x45, 0]);
        packet.extend(total.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, TTL, PROTOCOL, 0, 0]);
        packet.extend(self.remote.octets());
        packet.extend(self.local.octets());
        let checksum = internet_checksum(&[&packet]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(ethertype.to_be_bytes());
        packet.extend(inner);
        Ok(packet)
    }

    /// Whether a packet is the host's complaint (ICMP, port unreachable) about one of ours: its tunnel
    /// is down or gone. A TUN device in that state takes nothing at all.
    #[must_use]
    pub fn refuses(&self, packet: &[u8]) -> bool {
        const ICMP: u8 = 1;
        const PORT_UNREACHABLE: [u8; 2] = [3, 3];
        let quoted = IP_HEADER + 8;
        packet.len() >= quoted + IP_HEADER
            && packet[0] == 0x45
            && packet[9] == ICMP
            && packet[IP_HEADER..].starts_with(&PORT_UNREACHABLE)
            && packet[quoted + 9] == PROTOCOL
            && (address(packet, quoted + 12), address(packet, quoted + 16))
                == (self.remote, self.local)
    }
}

/// By the version in its first byte.
fn ethertype(packet: &[u8]) -> Option<u16> {
    match packet.first()? >> 4 {
        4 => Some(ETHERTYPE_IPV4),
        6 => Some(ETHERTYPE_IPV6),
        _ => None,
    }
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use super::*;
    use crate::frame::Datagram;

    const ENDS: Ends = Ends {
        local: Ipv4Addr::new(192, 0, 2, 1),
        remote: Ipv4Addr::new(192, 0, 2, 2),
    };
    /// Written by hand after RFC 791 and RFC 2784; of the inner packet only the first byte.
    const BY_HAND: [u8; 25] = [
        0x45, 0x00, 0x00, 0x19, 0x00, 0x00, 0x40, 0x00, 0x40, 0x2f, 0xb6, 0xb2, 192, 0, 2, 1, 192,
        0, 2, 2, 0x00, 0x00, 0x08, 0x00, 0x45,
    ];

    fn inner() -> Vec<u8> {
        let [from, to] = [1, 2].map(|last| SocketAddrV4::new([10, 0, 0, last].into(), 44880));
        Datagram::new(from, to, *b"inner").build()
    }

    /// With the header checksum made right again.
    fn changed(at: usize, byte: u8) -> Vec<u8> {
        let mut packet = ENDS.swapped().wrap_back(&inner()).expect("a packet");
        packet[at] = byte;
        packet[10..12].fill(0);
        let checksum = internet_checksum(&[&packet[..IP_HEADER]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn takes_off_what_it_puts_on() {
        let packet = ENDS.swapped().wrap_back(&inner()).expect("a packet");
        assert_eq!(packet.len(), OVERHEAD + inner().len());
        assert_eq!(ENDS.unwrap(&packet).expect("sound"), inner());
        assert_eq!(ENDS.unwrap(&BY_HAND).expect("sound"), [0x45]);
    }

    #[test]
    fn names_what_is_wrong() {
        let ihl_6 = changed(0, 0x46);
        for (at, byte, says) in [
            (0, 0x65, "not IPv4"),
            (3, 0, "total length"),
            (6, 0x20, "a fragment"),
            (7, 1, "a fragment"),
            (8, 63, "TTL 63"),
            (9, 4, "protocol 4"),
            (15, 9, "from 192.0.2.9"),
            (19, 9, "to 192.0.2.9"),
            (20, 0x80, "flags and version 0x8000"),
            (20, 0x20, "flags and version 0x2000"),
            (21, 1, "flags and version 0x0001"),
            (22, 0x86, "protocol 0x8600"),
            (23, 0x01, "protocol 0x0801"),
            (24, 0x65, "protocol 0x0800 before"),
        ] {
            let said = ENDS.unwrap(&changed(at, byte)).expect_err("malformed");
            assert!(said.to_string().contains(says), "byte {at}: {said}");
        }
        ENDS.unwrap(&ihl_6).expect_err("options");
        let mut packet = ENDS.swapped().wrap_back(&inner()).expect("a packet");
        packet[10] ^= 1;
        let said = ENDS.unwrap(&packet).expect_err("malformed").to_string();
        assert!(said.contains("checksum"), "{said}");
        for len in 0..=OVERHEAD {
            ENDS.unwrap(&packet[..len]).expect_err("cut short");
        }
    }

    #[test]
    fn only_ip_packets_go_in() {
        let refused = ENDS.wrap_back(b"\x00nothing").expect_err("no IP packet");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        ENDS.wrap_back(&[]).expect_err("nothing at all");
        let v6 = ENDS.wrap_back(&[0x60, 0]).expect("IPv6");
        assert_eq!(ENDS.swapped().unwrap(&v6).expect("sound"), [0x60, 0]);
    }

    #[test]
    fn a_complaint_is_told_apart() {
        let ours = ENDS.wrap_back(&inner()).expect("a packet");
        let mut complaint = BY_HAND[..IP_HEADER].to_vec();
        complaint[9] = 1;
        complaint.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        complaint.extend(&ours);
        assert!(ENDS.refuses(&complaint));
        ENDS.unwrap(&complaint).expect_err("no GRE");
        let host_unreachable = [&complaint[..21], &[1], &complaint[22..]].concat();
        assert!(!ENDS.refuses(&host_unreachable));
        assert!(!ENDS.swapped().refuses(&complaint));
        assert!(!ENDS.refuses(&ours));
    }
}
