//! Building and reading test packets, good and bad, without the help of the code under test.

use std::net::{Ipv6Addr, SocketAddrV4};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// The fragment flag "more fragments" of the IPv4 header.
pub const MORE_FRAGMENTS: u16 = 0x2000;
const UDP: u8 = 17;

/// What a UDP datagram carries in its checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// The right one.
    Good,
    /// A wrong one.
    Bad,
    /// Zero: none.
    Absent,
}

/// A UDP datagram over IPv4, to be built; every field that a test may want wrong can be set.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Source address and port.
    pub src: SocketAddrV4,
    /// Destination address and port.
    pub dst: SocketAddrV4,
    /// What follows the UDP header.
    pub payload: Vec<u8>,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset (in units of 8 bytes) of the IPv4 header.
    pub fragment: u16,
    /// IPv4 options; padded with zeros to a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Version and header length, if not the right ones.
    pub version_ihl: Option<u8>,
    /// Protocol number.
    pub protocol: u8,
    /// Total length, if not the right one.
    pub total_len: Option<u16>,
    /// Whether the header checksum is right.
    pub header_checksum_good: bool,
    /// Length field of the UDP header, if not the right one.
    pub udp_len: Option<u16>,
    /// Checksum of the UDP datagram.
    pub udp_checksum: UdpChecksum,
}

impl Datagram {
    /// A sound datagram.
    pub fn new(src: SocketAddrV4, dst: SocketAddrV4, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            src,
            dst,
            payload: payload.into(),
            ttl: 64,
            tos: 0,
            id: 0x1234,
            fragment: 0,
            options: Vec::new(),
            version_ihl: None,
            protocol: UDP,
            total_len: None,
            header_checksum_good: true,
            udp_len: None,
            udp_checksum: UdpChecksum::Good,
        }
    }

    /// The packet from its IPv4 header on.
    ///
    /// # Panics
    /// It would be longer than IPv4 allows.
    pub fn build(&self) -> Vec<u8> {
        let udp = self.build_udp();
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_len = 20 + options.len();
        let words = u8::try_from(header_len / 4).expect("options of at most 40 bytes");
        let total = u16::try_from(header_len + udp.len()).expect("a packet that IPv4 can carry");
        let mut packet = Vec::with_capacity(header_len + udp.len());
        packet.push(self.version_ihl.unwrap_or(0x40 | words));
        packet.push(self.tos);
        packet.extend(self.total_len.unwrap_or(total).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.src.ip().octets());
        packet.extend(self.dst.ip().octets());
        packet.extend(options);
        let mut checksum = internet_checksum(&[&packet]);
        if !self.header_checksum_good {
            checksum = spoil(checksum);
        }
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(udp);
        packet
    }

    fn build_udp(&self) -> Vec<u8> {
        let len = u16::try_from(8 + self.payload.len()).expect("a datagram that UDP can carry");
        let len = self.udp_len.unwrap_or(len);
        let mut udp = Vec::with_capacity(8 + self.payload.len());
        udp.extend(self.src.port().to_be_bytes());
        udp.extend(self.dst.port().to_be_bytes());
        udp.extend(len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let pseudo = pseudo_header(self.src, self.dst, len);
        let good = match internet_checksum(&[&pseudo, &udp]) {
            // Zero means none; the sum has another way to say zero.
            0 => 0xffff,
            sum => sum,
        };
        let checksum = match self.udp_checksum {
            UdpChecksum::Good => good,
            UdpChecksum::Bad => spoil(good),
            UdpChecksum::Absent => 0,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        udp
    }
}

/// A UDP datagram over IPv4, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Source address and port.
    pub src: SocketAddrV4,
    /// Destination address and port.
    pub dst: SocketAddrV4,
    /// What follows the UDP header, as long as the UDP header says.
    pub payload: Vec<u8>,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Whether the checksum of the IPv4 header is right.
    pub header_checksum_good: bool,
    /// What the checksum of the UDP datagram is.
    pub udp_checksum: UdpChecksum,
}

/// Reads a packet from its IPv4 header on; none if it is not a whole UDP datagram. Whatever follows
/// the total length (the padding of a short Ethernet frame) is left out.
pub fn parse_udp(packet: &[u8]) -> Option<Parsed> {
    let header_len = usize::from(*packet.first()? & 0xf) * 4;
    if packet[0] >> 4 != 4 || header_len < 20 || packet.len() < header_len + 8 {
        return None;
    }
    let fragment = be16(packet, 6) & 0x3fff;
    if packet[9] != UDP || fragment != 0 {
        return None;
    }
    let packet = packet.get(..usize::from(be16(packet, 2)))?;
    let udp = packet.get(header_len..)?;
    let len = be16(udp, 4);
    let udp = udp.get(..usize::from(len))?;
    let address = |at: usize| {
        <[u8; 4]>::try_from(&packet[at..at + 4])
            .ok()
            .map(Into::into)
    };
    let src = SocketAddrV4::new(address(12)?, be16(udp, 0));
    let dst = SocketAddrV4::new(address(16)?, be16(udp, 2));
    let udp_checksum = match be16(udp, 6) {
        0 => UdpChecksum::Absent,
        _ if internet_checksum(&[&pseudo_header(src, dst, len), udp]) == 0 => UdpChecksum::Good,
        _ => UdpChecksum::Bad,
    };
    Some(Parsed {
        src,
        dst,
        payload: udp.get(8..)?.to_vec(),
        ttl: packet[8],
        tos: packet[1],
        header_checksum_good: internet_checksum(&[&packet[..header_len]]) == 0,
        udp_checksum,
    })
}

/// Puts an Ethernet header before a packet, and pads the frame to the 60 bytes that a wire needs if
/// `pad`.
pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, packet: &[u8], pad: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60.max(14 + packet.len()));
    frame.extend(dst);
    frame.extend(src);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    if pad && frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// Puts an 802.1Q tag (its id and the type of what follows) before a packet: the payload of a frame
/// of type [`ETHERTYPE_VLAN`].
pub fn vlan_tag(id: u16, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut tagged = Vec::with_capacity(4 + packet.len());
    tagged.extend((id & 0x0fff).to_be_bytes());
    tagged.extend(ethertype.to_be_bytes());
    tagged.extend(packet);
    tagged
}

/// A sound UDP datagram over IPv6, from its IPv6 header on.
///
/// # Panics
/// It would be longer than IPv6 allows.
pub fn udp_over_ipv6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("a datagram that UDP can carry");
    let mut udp = Vec::with_capacity(usize::from(len));
    udp.extend(src.1.to_be_bytes());
    udp.extend(dst.1.to_be_bytes());
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let (from, to) = (src.0.octets(), dst.0.octets());
    let trailer = [
        0,
        0,
        len.to_be_bytes()[0],
        len.to_be_bytes()[1],
        0,
        0,
        0,
        UDP,
    ];
    let checksum = match internet_checksum(&[&from, &to, &trailer, &udp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([UDP, 64]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(udp);
    packet
}

fn pseudo_header(src: SocketAddrV4, dst: SocketAddrV4, len: u16) -> [u8; 12] {
    let mut pseudo = [0; 12];
    pseudo[..4].copy_from_slice(&src.ip().octets());
    pseudo[4..8].copy_from_slice(&dst.ip().octets());
    pseudo[9] = UDP;
    pseudo[10..].copy_from_slice(&len.to_be_bytes());
    pseudo
}

/// RFC 1071, over pieces of which all but the last have an even length. Over data that contains its
/// own right checksum the result is 0.
pub(crate) fn internet_checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for piece in pieces {
        for pair in piece.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Another checksum, neither 0 nor equivalent to the given one.
const fn spoil(checksum: u16) -> u16 {
    let spoiled = checksum ^ 0x5555;
    if spoiled == 0 { 0x1111 } else { spoiled }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn datagram() -> Datagram {
        let src = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 44880);
        let dst = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 44880);
        Datagram::new(src, dst, *b"seven b")
    }

    #[test]
    fn reads_what_it_builds() {
        let good = datagram();
        let parsed = parse_udp(&good.build()).expect("a datagram");
        assert_eq!((parsed.src, parsed.dst), (good.src, good.dst));
        assert_eq!(parsed.payload, b"seven b");
        assert!(parsed.header_checksum_good);
        assert_eq!(parsed.udp_checksum, UdpChecksum::Good);
    }

    #[test]
    fn sees_what_is_wrong() {
        let bad = Datagram {
            header_checksum_good: false,
            udp_checksum: UdpChecksum::Bad,
            options: vec![1],
            ..datagram()
        };
        let parsed = parse_udp(&bad.build()).expect("a datagram");
        assert!(!parsed.header_checksum_good);
        assert_eq!(parsed.udp_checksum, UdpChecksum::Bad);
        let absent = Datagram {
            udp_checksum: UdpChecksum::Absent,
            ..datagram()
        };
        let parsed = parse_udp(&absent.build()).expect("a datagram");
        assert_eq!(parsed.udp_checksum, UdpChecksum::Absent);
        let fragment = Datagram {
            fragment: MORE_FRAGMENTS,
            ..datagram()
        };
        assert_eq!(parse_udp(&fragment.build()), None);
    }

    /// The example of RFC 1071, section 3.
    #[test]
    fn checksum_of_the_rfc() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(&[&data]), !0xddf2);
    }
}
