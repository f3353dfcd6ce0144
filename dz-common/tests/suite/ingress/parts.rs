//! Frames built by hand, in parts that a test may spoil.

use crate::headers::{ones_sum, with_pseudo_header};
use crate::support::{OURS, packet};
use dz_common::LIVENESS_PORT;
use dz_common::ingress::Link;
use dz_common::packet::State;

pub(super) const SRC: [u8; 4] = [10, 0, 0, 2];
pub(super) const DST: [u8; 4] = [10, 0, 0, 1];

/// A frame in its parts, so that a test can spoil one of them.
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
    let [port_high, port_low] = LIVENESS_PORT.to_be_bytes();
    let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0];
    ip.extend(SRC);
    ip.extend(DST);
    Parts {
        ethernet: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0],
        ip,
        udp: [port_high, port_low, port_high, port_low, 0, 0, 0, 0],
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
        let mut udp = [&self.udp[..], &self.payload].concat();
        let udp_len = (udp.len() as i16 + self.udp_len_off) as u16;
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let summed = with_pseudo_header(&SRC, &DST, &udp);
        let sum = match self.udp_sum {
            UdpSum::Right => !ones_sum(&summed),
            UdpSum::Wrong => !ones_sum(&summed) ^ 0x0100,
            UdpSum::None => 0,
            UdpSum::Partial => ones_sum(&summed[..12]),
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        let mut ip = self.ip.clone();
        let total_len = ((ip.len() + udp.len()) as i16 + self.total_len_off) as u16;
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        let sum = !ones_sum(&ip) ^ u16::from(self.bad_ip_sum);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let ethernet = match link {
            Link::Layer3 => &[][..],
            Link::Ethernet => &self.ethernet,
        };
        [ethernet, &ip, &udp, &vec![0xee; self.padding]].concat()
    }
}
