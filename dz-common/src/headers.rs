//! The IPv4 and UDP headers in front of everything we send.
//!
//! Answers and our own transmissions carry the same headers: no options, DF, TTL 64, both ports the
//! configured one.

use crate::checksum::{self, IPPROTO_UDP};
use crate::packet::{PACKET_LEN, Packet};

/// IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// UDP header.
pub const UDP_LEN: usize = 8;
/// Ethernet header without a VLAN tag.
pub const ETHERNET_LEN: usize = 14;
/// IPv4 packet with one liveness packet in it.
pub const DATAGRAM_LEN: usize = IPV4_LEN + UDP_LEN + PACKET_LEN;
/// EtherType of IPv4, host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;

const UDP_TOTAL: u16 = (UDP_LEN + PACKET_LEN) as u16;
const IP_TOTAL: [u8; 2] = (DATAGRAM_LEN as u16).to_be_bytes();
const VERSION_IHL_TOS: [u8; 2] = [0x45, 0];
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
const TTL: u8 = 64;

/// What to put into the UDP checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// The checksum of the whole datagram.
    Full,
    /// The folded pseudo-header sum, for a packet whose checksum is completed further down
    /// (`CHECKSUM_PARTIAL`).
    Partial,
}

/// Writes a complete IPv4 packet that carries `packet` from `src` to `dst`; `port` in host order.
/// Every byte of `d` is written: into a frame in place, or into a buffer on a small stack.
#[inline(always)]
pub fn write(
    d: &mut [u8; DATAGRAM_LEN],
    src: &[u8; 4],
    dst: &[u8; 4],
    port: u16,
    packet: &Packet,
    udp_checksum: UdpChecksum,
) {
    [d[0], d[1]] = VERSION_IHL_TOS;
    [d[2], d[3]] = IP_TOTAL;
    [d[4], d[5]] = [0; 2];
    [d[6], d[7]] = DONT_FRAGMENT;
    [d[8], d[9]] = [TTL, IPPROTO_UDP];
    // The constant words of the header, then the addresses.
    let words =
        word(VERSION_IHL_TOS) + word(IP_TOTAL) + word(DONT_FRAGMENT) + word([TTL, IPPROTO_UDP]);
    let sum = !checksum::fold(checksum::add(checksum::add(words, src), dst));
    [d[10], d[11]] = sum.to_ne_bytes();
    [d[12], d[13], d[14], d[15]] = *src;
    [d[16], d[17], d[18], d[19]] = *dst;

    let [port_high, port_low] = port.to_be_bytes();
    [d[20], d[21]] = [port_high, port_low];
    [d[22], d[23]] = [port_high, port_low];
    [d[24], d[25]] = UDP_TOTAL.to_be_bytes();
    let pseudo = checksum::pseudo_header(src, dst, UDP_TOTAL);
    let (_, payload) = d.split_at_mut(IPV4_LEN + UDP_LEN);
    let Some(payload) = payload.first_chunk_mut() else {
        return;
    };
    packet.encode_into(payload);
    let udp = match udp_checksum {
        UdpChecksum::Partial => checksum::fold(pseudo),
        UdpChecksum::Full => {
            let header = 2 * port.to_be() as u32 + UDP_TOTAL.to_be() as u32;
            match !checksum::fold(checksum::add(pseudo + header, payload)) {
                0 => 0xffff, // RFC 768: 0 would mean "no checksum"
                sum => sum,
            }
        }
    };
    [d[26], d[27]] = udp.to_ne_bytes();
}

#[inline(always)]
const fn word(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes) as u32
}
