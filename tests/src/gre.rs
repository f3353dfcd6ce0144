//! GRE over IPv4 (RFC 2784) as one end of a tunnel puts it on its underlay: taken off with every
//! field checked, put on for the way back. Without the help of the code under test.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{EtherType, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, Ipv4HeaderSlice};

use crate::frame::internet_checksum;

/// The tunnel's `ttl`.
pub const TTL: u8 = 64;
/// A GRE header without checksum, key or sequence number; etherparse has none.
const GRE_HEADER: usize = 4;
/// What the tunnel adds to a packet, bytes.
pub const OVERHEAD: usize = Ipv4Header::MIN_LEN + GRE_HEADER;

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
        let header = Ipv4HeaderSlice::from_slice(packet).context("not IPv4")?;
        ensure!(header.options().is_empty(), "IPv4 options");
        let total = usize::from(header.total_len());
        ensure!(total == packet.len(), "total length {total}");
        // A tunnel of MTU 1476 over one of 1500 never fragments.
        ensure!(!header.is_fragmenting_payload(), "a fragment");
        ensure!(header.ttl() == TTL, "TTL {}", header.ttl());
        let protocol = header.protocol();
        ensure!(protocol == IpNumber::GRE, "protocol {}", protocol.0);
        ensure!(
            internet_checksum(header.slice()) == 0,
            "header checksum wrong"
        );
        let (from, to) = (header.source_addr(), header.destination_addr());
        ensure!(
            (from, to) == (self.local, self.remote),
            "from {from} to {to} instead of from {} to {}",
            self.local,
            self.remote
        );
        let (gre, inner) = packet[Ipv4Header::MIN_LEN..]
            .split_first_chunk::<GRE_HEADER>()
            .context("shorter than a GRE header")?;
        let [flags, protocol] = [[gre[0], gre[1]], [gre[2], gre[3]]].map(u16::from_be_bytes);
        ensure!(flags == 0, "GRE flags and version {flags:#06x}");
        ensure!(
            ethertype(inner) == Some(EtherType(protocol)),
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
        let mut header = Ipv4Header {
            dont_fragment: true,
            time_to_live: TTL,
            protocol: IpNumber::GRE,
            source: self.remote.octets(),
            destination: self.local.octets(),
            ..Ipv4Header::default()
        };
        let fits = header.set_payload_len(GRE_HEADER + inner.len());
        fits.map_err(|_| ErrorKind::InvalidInput)?;
        header.header_checksum = header.calc_header_checksum();
        let [high, low] = ethertype.0.to_be_bytes();
        Ok([&header.to_bytes()[..], &[0, 0, high, low], inner].concat())
    }

    /// Whether a packet is the host's complaint (ICMP, port unreachable) about one of ours: its tunnel
    /// is down or gone. A TUN device in that state takes nothing at all.
    #[must_use]
    pub fn refuses(&self, packet: &[u8]) -> bool {
        const PORT_UNREACHABLE: Icmpv4Type =
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        if let Ok((ip, rest)) = Ipv4Header::from_slice(packet)
            && ip.protocol == IpNumber::ICMP
            && let Ok((icmp, quoted)) = Icmpv4Header::from_slice(rest)
            && icmp.icmp_type == PORT_UNREACHABLE
            && let Ok(ours) = Ipv4HeaderSlice::from_slice(quoted)
        {
            ours.protocol() == IpNumber::GRE
                && (ours.source_addr(), ours.destination_addr()) == (self.remote, self.local)
        } else {
            false
        }
    }
}

/// By the version in its first byte.
fn ethertype(packet: &[u8]) -> Option<EtherType> {
    match packet.first()? >> 4 {
        4 => Some(EtherType::IPV4),
        6 => Some(EtherType::IPV6),
        _ => None,
    }
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
        let checksum = internet_checksum(&packet[..Ipv4Header::MIN_LEN]);
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
        let mut complaint = BY_HAND[..Ipv4Header::MIN_LEN].to_vec();
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
