//! Frames in parts, each of which a test may spoil.

use crate::headers::{ones_sum, pseudo_header_sum};
use crate::support::{OURS, packet};
use dz_common::LIVENESS_PORT;
use dz_common::ingress::Link;
use dz_common::packet::State;
use etherparse::{IpNumber, Ipv4Header, UdpHeader};

pub(super) const SRC: [u8; 4] = [10, 0, 0, 2];
pub(super) const DST: [u8; 4] = [10, 0, 0, 1];

/// A frame before its lengths and checksums are filled in.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) ethernet: [u8; 14],
    pub(super) ip: Vec<u8>,
    pub(super) udp: [u8; 8],
    pub(super) payload: Vec<u8>,
    /// Bytes behind the IPv4 packet, as Ethernet pads.
    pub(super) padding: usize,
    /// Added to the UDP length field.
    pub(super) udp_len_off: i16,
    /// Added to the IPv4 total length field.
    pub(super) total_len_off: i16,
    /// The IPv4 checksum is spoiled.
    pub(super) bad_ip_sum: bool,
    pub(super) udp_sum: UdpSum,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum UdpSum {
    Right,
    Wrong,
    None,
    Partial,
}

pub(super) fn sound() -> Parts {
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, SRC, DST).unwrap();
    ip.identification = 0x1234;
    let udp = UdpHeader::without_ipv4_checksum(LIVENESS_PORT, LIVENESS_PORT, 0).unwrap();
    Parts {
        ethernet: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0],
        ip: ip.to_bytes().to_vec(),
        udp: udp.to_bytes(),
        payload: packet(State::Up, OURS).encode().to_vec(),
        padding: 0,
        udp_len_off: 0,
        total_len_off: 0,
        bad_ip_sum: false,
        udp_sum: UdpSum::Right,
    }
}

impl Parts {
    pub(super) fn frame(&self, link: Link) -> Vec<u8> {
        let len = UdpHeader::LEN + self.payload.len();
        let mut udp = UdpHeader::from_bytes(self.udp);
        udp.length = (len as i16 + self.udp_len_off) as u16;
        let right = udp.calc_checksum_ipv4_raw(SRC, DST, &self.payload);
        udp.checksum = match self.udp_sum {
            UdpSum::Right => right.unwrap(),
            UdpSum::Wrong => right.unwrap() ^ 0x0100,
            UdpSum::None => 0,
            UdpSum::Partial => pseudo_header_sum(SRC, DST, udp.length),
        };
        let mut ip = self.ip.clone();
        let total_len = ((ip.len() + len) as i16 + self.total_len_off) as u16;
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        let sum = !ones_sum(&ip) ^ u16::from(self.bad_ip_sum);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let ethernet = match link {
            Link::Layer3 => &[][..],
            Link::Ethernet => &self.ethernet,
        };
        let padding = vec![0xee; self.padding];
        [ethernet, &ip, &udp.to_bytes(), &self.payload, &padding].concat()
    }
}
