//! Frames, mostly nearly good ones.

use std::net::SocketAddrV4;

use dz_common::ingress::Link;
use dz_common::map::{SessionEntry, SessionKey};
use dz_tests::frame::{
    Datagram, MORE_FRAGMENTS, UdpChecksum, ethernet, internet_checksum, vlan_tag,
};
use dz_tests::rng::Rng;
use etherparse::checksum::Sum16BitWords;
use etherparse::{EtherType, IpNumber};

use crate::states::{discriminator, interval_us, version};

/// `BPF_PROG_TEST_RUN` takes no frame that is shorter than an Ethernet header, and some kernels
/// none with nothing behind it.
const SHORTEST: usize = 15;
const MPLS: EtherType = EtherType(0x8847);
const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
const PEERS_MAC: [u8; 6] = [2, 0xdb, 0, 0, 9, 9];

/// A frame for this session's key, in the light of the state that the session is in (if there is
/// one). `port` is ours.
pub(crate) fn frame(
    rng: &Rng,
    link: Link,
    mac: [u8; 6],
    key: &SessionKey,
    entry: Option<&SessionEntry>,
    port: u16,
) -> Vec<u8> {
    let (packet, plain) = datagram(rng, key, entry, port);
    let at = link.ip_offset();
    let mut frame = match link {
        Link::Layer3 => packet,
        Link::Ethernet => framed(rng, mac, &packet),
    };
    if plain && rng.chance(20) {
        mutate(rng, &mut frame);
        if rng.chance(60) {
            mend_ip_checksum(&mut frame[at..]);
        }
        if rng.chance(60) {
            mend_udp_checksum(&mut frame[at..], false);
        }
    } else if plain && rng.chance(15) {
        mend_udp_checksum(&mut frame[at..], true);
    }
    match rng.below(20) {
        0 => {
            let lost = rng.index(frame.len() - SHORTEST);
            frame.truncate(frame.len() - lost);
        }
        1 | 2 => {
            // What an Ethernet driver or a switch leaves behind the packet.
            let surplus = 1 + rng.index(60);
            frame.extend((0..surplus).map(|_| rng.byte()));
        }
        _ => {}
    }
    frame
}

/// Changes one to three bytes of the headers or of the payload.
fn mutate(rng: &Rng, frame: &mut [u8]) {
    for _ in 0..1 + rng.below(3) {
        let at = rng.index(frame.len().min(14 + IPV4_LEN + UDP_LEN + 40));
        frame[at] = match rng.below(3) {
            0 => rng.byte(),
            1 => rng.pick(&[0, 0xff]),
            _ => frame[at] ^ 1 << rng.below(8),
        };
    }
}

fn framed(rng: &Rng, mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let (mut destination, mut ethertype) = (mac, EtherType::IPV4);
    let mut tagged = None;
    match rng.below(60) {
        0 => destination = [0xff; 6],
        1 => destination = [1, 0, 0x5e, 0, 0, 5],
        2 => destination[5] ^= 1,
        3 => ethertype = rng.pick(&[EtherType::ARP, EtherType::IPV6, EtherType(0), MPLS]),
        4 => {
            ethertype = rng.pick(&[EtherType::VLAN_TAGGED_FRAME, EtherType::PROVIDER_BRIDGING]);
            tagged = Some(vlan_tag(5, EtherType::IPV4, packet));
        }
        _ => {}
    }
    let packet = tagged.as_deref().unwrap_or(packet);
    ethernet(destination, PEERS_MAC, ethertype, packet, rng.chance(50))
}

/// The packet from its IPv4 header on, and whether the lengths in it are what they seem.
fn datagram(
    rng: &Rng,
    key: &SessionKey,
    entry: Option<&SessionEntry>,
    port: u16,
) -> (Vec<u8>, bool) {
    let mut payload = payload(rng, entry).to_vec();
    match rng.below(30) {
        0 => payload.truncate(rng.index(40)),
        1 => payload.extend((0..1 + rng.below(100)).map(|_| 0xa5)),
        2 => payload.resize(rng.pick(&[41, 42, 512, 1_472]), 0),
        _ => {}
    }
    let src = SocketAddrV4::new(
        key.peer.into(),
        rng.pick(&[port, port, port, port, port, port, 1, rng.word() as u16]),
    );
    let mut datagram = Datagram::new(src, SocketAddrV4::new(key.local.into(), port), payload);
    datagram.ttl = rng.pick(&[64, 64, 64, 1, 0, 255, 254, rng.byte()]);
    datagram.tos = rng.pick(&[0, 0, 0xc0]);
    datagram.id = rng.word() as u16;
    datagram.fragment = rng.pick(&[0, 0x4000, 0x8000]);
    datagram.udp_checksum = rng.pick(&[
        UdpChecksum::Good,
        UdpChecksum::Good,
        UdpChecksum::Good,
        UdpChecksum::Good,
        UdpChecksum::Good,
        UdpChecksum::Good,
        UdpChecksum::Absent,
        if rng.chance(40) {
            UdpChecksum::Bad
        } else {
            UdpChecksum::Good
        },
    ]);
    let len = (IPV4_LEN + UDP_LEN + datagram.payload.len()) as u16;
    let mut plain = false;
    match rng.below(40) {
        0 => datagram.fragment = rng.pick(&[MORE_FRAGMENTS, 1, 0x1fff, MORE_FRAGMENTS | 100]),
        1 => datagram.options = vec![1; 1 + rng.index(40)],
        2 => datagram.version_ihl = Some(rng.pick(&[0x44, 0x46, 0x55, 0x65, 0x4f, 0x40, 0, 0xff])),
        3 => datagram.protocol = rng.pick(&[0, 1, 6, 16, 18, 47, 255]),
        4 => datagram.header_checksum_good = false,
        5 => datagram.total_len = Some(wrong_len(rng, len)),
        6 => datagram.udp_len = Some(wrong_len(rng, len - IPV4_LEN as u16)),
        7 => datagram
            .dst
            .set_port(rng.pick(&[port ^ 1, port.swap_bytes(), 53, 0])),
        8 => {
            // Both lengths wrong, and the packet as long as they say.
            let short = wrong_len(rng, len).min(len);
            datagram.total_len = Some(short);
            datagram.udp_len = Some(short.saturating_sub(IPV4_LEN as u16));
        }
        _ => plain = true,
    }
    (datagram.build(), plain)
}

fn wrong_len(rng: &Rng, right: u16) -> u16 {
    match rng.below(5) {
        0 => rng.word() as u16 % 64,
        1 => rng.word() as u16,
        2 => rng.pick(&[0, 7, 8, 20, 27, 28, 47, 48, u16::MAX]),
        3 => right + 1 + rng.below(8) as u16,
        _ => right.saturating_sub(1 + rng.below(8) as u16),
    }
}

/// 40 bytes, nearly always a liveness packet.
fn payload(rng: &Rng, entry: Option<&SessionEntry>) -> [u8; 40] {
    let session = entry.map(|entry| &entry.session);
    let ours = session.map_or(1, |session| session.local_discr);
    let theirs = session.map_or(1, |session| session.peer_discr);
    let mut b = [0; 40];
    b[0] = 1 << 5 | rng.pick(&[0, 0, 0, rng.byte() & 0x1f]);
    b[1] = rng.pick(&[0, 1, 1, 2, 2, 3, 3, 3]) << 6 | rng.pick(&[0, 0, 0, rng.byte() & 0x3f]);
    b[2] = rng.pick(&[1, 3, 3, 3, 255]);
    b[3] = 40;
    let other = discriminator(rng);
    let my_discr = rng.pick(&[theirs, theirs, theirs, other]);
    b[4..8].copy_from_slice(&if my_discr == 0 { other } else { my_discr }.to_be_bytes());
    let wrong = rng.pick(&[discriminator(rng), 0xdead_beef, theirs]);
    let your_discr = rng.pick(&[ours, ours, ours, ours, 0, 0, wrong]);
    b[8..12].copy_from_slice(&your_discr.to_be_bytes());
    b[12..16].copy_from_slice(&interval_us(rng).to_be_bytes());
    b[16..20].copy_from_slice(&interval_us(rng).to_be_bytes());
    b[20] = rng.pick(&[0, 0, 1, 1, rng.byte()]);
    b[21..25].copy_from_slice(&version(rng).number);
    match rng.below(60) {
        0 => b[0] = rng.byte(),
        1 => b[3] = rng.pick(&[0, 39, 41, 24, rng.byte()]),
        2 => b[2] = 0,
        3 => b[4..8].fill(0),
        4..=6 => b[25 + rng.index(15)] = 1 << rng.below(8),
        _ => {}
    }
    b
}

fn mend_ip_checksum(packet: &mut [u8]) {
    let Some((header, _)) = packet.split_at_mut_checked(IPV4_LEN) else {
        return;
    };
    header[10..12].fill(0);
    let sum = internet_checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Makes the UDP checksum right for what the headers say; or, if `pseudo`, the folded sum of the
/// pseudo header, which is what a `CHECKSUM_PARTIAL` packet has there.
fn mend_udp_checksum(packet: &mut [u8], pseudo: bool) {
    if packet.len() < IPV4_LEN + UDP_LEN {
        return;
    }
    let len = [packet[24], packet[25]];
    let header = Sum16BitWords::new()
        .add_slice(&packet[12..20])
        .add_2bytes([0, IpNumber::UDP.0])
        .add_2bytes(len);
    let udp = &mut packet[IPV4_LEN..];
    udp[6..8].fill(0);
    let covered = usize::from(u16::from_be_bytes(len)).min(udp.len());
    let field = if pseudo {
        !header.ones_complement()
    } else {
        header
            .add_slice(&udp[..covered])
            .to_ones_complement_with_no_zero()
    };
    udp[6..8].copy_from_slice(&field.to_ne_bytes());
}
