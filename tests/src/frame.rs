//! Building and reading test packets, good and bad, by etherparse: without the help of the code under
//! test.

use std::net::{Ipv6Addr, SocketAddrV4};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv4Slice, PacketBuilder,
    SingleVlanHeader, UdpHeader, UdpSlice, VlanId,
};

/// The fragment flag "more fragments" of the IPv4 header.
pub const MORE_FRAGMENTS: u16 = 0x2000;

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
            protocol: IpNumber::UDP.0,
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
        let options = Ipv4Options::try_from(options.as_slice());
        let mut header = Ipv4Header {
            identification: self.id,
            time_to_live: self.ttl,
            protocol: IpNumber(self.protocol),
            source: self.src.ip().octets(),
            destination: self.dst.ip().octets(),
            options: options.expect("options of at most 40 bytes"),
            ..Ipv4Header::default()
        };
        let fits = header.set_payload_len(udp.len());
        fits.expect("a packet that IPv4 can carry");
        header.total_len = self.total_len.unwrap_or(header.total_len);
        let mut packet = header.to_bytes().to_vec();
        // `Ipv4Header` does not hold every value that a test may want here.
        packet[0] = self.version_ihl.unwrap_or(packet[0]);
        packet[1] = self.tos;
        packet[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        let mut checksum = internet_checksum(&packet);
        if !self.header_checksum_good {
            checksum = spoil(checksum);
        }
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(udp);
        packet
    }

    fn build_udp(&self) -> Vec<u8> {
        let (from, to) = (self.src, self.dst);
        let header = UdpHeader::without_ipv4_checksum(from.port(), to.port(), self.payload.len());
        let mut header = header.expect("a datagram that UDP can carry");
        header.length = self.udp_len.unwrap_or(header.length);
        let (from, to) = (from.ip().octets(), to.ip().octets());
        let good = header.calc_checksum_ipv4_raw(from, to, &self.payload);
        let good = good.expect("a datagram that UDP can carry");
        header.checksum = match self.udp_checksum {
            UdpChecksum::Good => good,
            UdpChecksum::Bad => spoil(good),
            UdpChecksum::Absent => 0,
        };
        [&header.to_bytes()[..], &self.payload].concat()
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
    let ip = Ipv4Slice::from_slice(packet).ok()?;
    let header = ip.header();
    if header.protocol() != IpNumber::UDP || ip.is_payload_fragmented() {
        return None;
    }
    let udp = UdpSlice::from_slice(ip.payload().payload).ok()?;
    // To etherparse a length of 0 is all that there is.
    if usize::from(udp.length()) != udp.slice().len() {
        return None;
    }
    let (from, to) = (header.source(), header.destination());
    let right = udp
        .to_header()
        .calc_checksum_ipv4_raw(from, to, udp.payload());
    let udp_checksum = match udp.checksum() {
        0 => UdpChecksum::Absent,
        found if Ok(found) == right => UdpChecksum::Good,
        _ => UdpChecksum::Bad,
    };
    Some(Parsed {
        src: SocketAddrV4::new(header.source_addr(), udp.source_port()),
        dst: SocketAddrV4::new(header.destination_addr(), udp.destination_port()),
        payload: udp.payload().to_vec(),
        ttl: header.ttl(),
        tos: packet[1],
        header_checksum_good: internet_checksum(header.slice()) == 0,
        udp_checksum,
    })
}

/// Puts an Ethernet header before a packet, and pads the frame to the 60 bytes that a wire needs if
/// `pad`.
pub fn ethernet(
    destination: [u8; 6],
    source: [u8; 6],
    ether_type: EtherType,
    packet: &[u8],
    pad: bool,
) -> Vec<u8> {
    let header = Ethernet2Header {
        source,
        destination,
        ether_type,
    };
    let mut frame = [&header.to_bytes()[..], packet].concat();
    if pad && frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// Puts an 802.1Q tag (its id and the type of what follows) before a packet: the payload of a frame
/// of type [`EtherType::VLAN_TAGGED_FRAME`].
///
/// # Panics
/// The id has more than 12 bits.
pub fn vlan_tag(id: u16, ether_type: EtherType, packet: &[u8]) -> Vec<u8> {
    let tag = SingleVlanHeader {
        vlan_id: VlanId::try_new(id).expect("an id of a VLAN"),
        ether_type,
        ..SingleVlanHeader::default()
    };
    [&tag.to_bytes()[..], packet].concat()
}

/// A sound UDP datagram over IPv6, from its IPv6 header on.
///
/// # Panics
/// It would be longer than IPv6 allows.
pub fn udp_over_ipv6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write_to_vec(&mut packet, payload)
        .expect("a datagram that UDP can carry");
    packet
}

/// RFC 1071. Over data that contains its own right checksum the result is 0.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    Sum16BitWords::new()
        .add_slice(bytes)
        .ones_complement()
        .to_be()
}

/// Another checksum, neither 0 nor equivalent to the given one.
const fn spoil(checksum: u16) -> u16 {
    let spoiled = checksum ^ 0x5555;
    if spoiled == 0 { 0x1111 } else { spoiled }
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
}
