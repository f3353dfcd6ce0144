//! The IPv4 and UDP headers in front of everything we send.
//!
//! Answers and our own transmissions carry the same headers: no options, DF, both ports, type of
//! service and time to live the configured ones.

use crate::checksum::{self, IPPROTO_UDP};
use crate::map::Config;
use crate::packet::{PACKET_LEN, Packet};
use crate::unaligned;

/// IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// UDP header.
pub const UDP_LEN: usize = 8;
/// Ethernet header without a VLAN tag.
pub const ETHERNET_LEN: usize = 14;
/// IPv4 packet with one liveness packet in it.
pub const DATAGRAM_LEN: usize = IPV4_LEN + UDP_LEN + PACKET_LEN;
/// [`DATAGRAM_LEN`] in 32-bit words.
pub const DATAGRAM_WORDS: usize = DATAGRAM_LEN / 4;
/// EtherType of IPv4, host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;

const UDP_TOTAL: u16 = (UDP_LEN + PACKET_LEN) as u16;
/// Version 4, five words of header, and the length of the whole.
const VERSION_AND_LENGTH: u32 = {
    let [high, low] = (DATAGRAM_LEN as u16).to_be_bytes();
    word([0x45, 0, high, low])
};
/// No identification, DF, no offset.
const FRAGMENT: u32 = word([0, 0, 0x40, 0]);

/// Chooses the value of the UDP checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// The checksum of the whole datagram.
    Full,
    /// The folded pseudo-header sum, for a packet whose checksum is completed further down
    /// (`CHECKSUM_PARTIAL`).
    Partial,
}

/// The configured header fields of all packets that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Both ports, host order.
    pub port: u16,
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
}

impl Marks {
    /// Takes them from a configuration.
    #[inline(always)]
    pub const fn of(config: &Config) -> Self {
        Self {
            port: config.port,
            tos: config.tos,
            ttl: config.ttl,
        }
    }
}

/// Writes a complete IPv4 packet that carries `packet` from `src` to `dst`.
#[inline(always)]
pub fn write(
    d: &mut [u8; DATAGRAM_LEN],
    src: &[u8; 4],
    dst: &[u8; 4],
    marks: Marks,
    packet: &Packet,
    udp_checksum: UdpChecksum,
) {
    let words = datagram(src, dst, marks, packet, udp_checksum);
    let (chunks, _) = d.as_chunks_mut();
    for (chunk, word) in chunks.iter_mut().zip(&words) {
        unaligned::store_u32(chunk, *word);
    }
}

/// Makes the packet that [`write()`] writes, as 32-bit words in memory order: to a kernel program every
/// access to memory costs the same, of whatever width.
#[inline(always)]
pub fn datagram(
    src: &[u8; 4],
    dst: &[u8; 4],
    marks: Marks,
    packet: &Packet,
    udp_checksum: UdpChecksum,
) -> [u32; DATAGRAM_WORDS] {
    let Marks { port, tos, ttl } = marks;
    let first = VERSION_AND_LENGTH | word([0, tos, 0, 0]);
    let (src, dst) = (u32::from_ne_bytes(*src), u32::from_ne_bytes(*dst));
    let addresses = src as u64 + dst as u64;
    let rest = first as u64 + FRAGMENT as u64 + word([ttl, IPPROTO_UDP, 0, 0]) as u64;
    let [a, b] = (!checksum::fold(addresses + rest)).to_ne_bytes();

    let pseudo = addresses + word([0, IPPROTO_UDP, 0, 0]) as u64 + UDP_TOTAL.to_be() as u64;
    let payload = packet.words();
    let udp = match udp_checksum {
        UdpChecksum::Partial => checksum::fold(pseudo),
        UdpChecksum::Full => {
            let mut sum = pseudo + 2 * port.to_be() as u64 + UDP_TOTAL.to_be() as u64;
            let mut i = 0;
            while i < payload.len() {
                sum += payload[i] as u64;
                i += 1;
            }
            match !checksum::fold(sum) {
                0 => 0xffff, // RFC 768: 0 would mean "no checksum"
                sum => sum,
            }
        }
    };
    let [c, d] = udp.to_ne_bytes();
    let [length_high, length_low] = UDP_TOTAL.to_be_bytes();
    let [p0, p1, p2, p3, p4, p5, p6] = payload;
    [
        first,
        FRAGMENT,
        word([ttl, IPPROTO_UDP, a, b]),
        src,
        dst,
        port.to_be() as u32 * 0x1_0001, // both ports
        word([length_high, length_low, c, d]),
        p0,
        p1,
        p2,
        p3,
        p4,
        p5,
        p6,
        0,
        0,
        0,
    ]
}

#[inline(always)]
const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}
