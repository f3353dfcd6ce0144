//! Checksums and headers, against etherparse's.

use crate::support::{OURS, Rng, for_seeds, packet};
use dz_common::checksum;
use dz_common::headers::{DATAGRAM_LEN, Marks, UdpChecksum, write};
use dz_common::packet::{PACKET_LEN, Packet, State};
use etherparse::checksum::Sum16BitWords;
use etherparse::{IpHeaders, IpNumber, Ipv4Header, PacketBuilder};

/// RFC 1071: the sum of which a checksum is the complement.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    !Sum16BitWords::new()
        .add_slice(bytes)
        .ones_complement()
        .to_be()
}

/// RFC 768: the sum of what a UDP checksum covers in front of the datagram.
pub(crate) fn pseudo_header_sum(src: [u8; 4], dst: [u8; 4], udp_len: u16) -> u16 {
    let [high, low] = udp_len.to_be_bytes();
    ones_sum(&[&src[..], &dst, &[0, IpNumber::UDP.0, high, low]].concat())
}

/// The datagram that [`write`] should have written.
fn datagram(src: [u8; 4], dst: [u8; 4], marks: Marks, packet: &Packet) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, marks.ttl, IpNumber::UDP, src, dst).unwrap();
    ip.dscp = (marks.tos >> 2).try_into().unwrap();
    ip.ecn = (marks.tos & 3).try_into().unwrap();
    let mut datagram = Vec::new();
    PacketBuilder::ip(IpHeaders::Ipv4(ip, Default::default()))
        .udp(marks.port, marks.port)
        .write_to_vec(&mut datagram, &packet.encode())
        .unwrap();
    datagram
}

fn any_packet(rng: &mut Rng) -> Packet {
    Packet {
        my_discr: rng.u32(),
        your_discr: rng.u32(),
        desired_min_tx_us: rng.u32(),
        required_min_rx_us: rng.u32(),
        ..packet(rng.pick(&State::ALL), OURS)
    }
}

fn any_address(rng: &mut Rng) -> [u8; 4] {
    let any = rng.u32();
    rng.pick(&[any, 0, u32::MAX]).to_be_bytes()
}

#[test]
fn sums_agree() {
    for_seeds(20_000, |rng| {
        let bytes: [u8; 40] = std::array::from_fn(|_| {
            let any = rng.byte();
            rng.pick(&[0, 0xff, any])
        });
        let ours = checksum::fold(checksum::add(0, &bytes));
        assert_eq!(ours.to_ne_bytes(), ones_sum(&bytes).to_be_bytes());
    });
}

#[test]
fn folding_takes_any_sum() {
    for sum in [
        0,
        1,
        0xffff,
        0x1_0000,
        0x1_ffff,
        0xffff_0000,
        0xfffe_ffff,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_fffe_ffff,
        0x1_0000_ffff_ffff,
        0xffff_ffff_0000_0001,
        u64::MAX,
    ] {
        let bytes = u64::to_be_bytes(sum);
        assert_eq!(checksum::fold(sum), ones_sum(&bytes), "{sum:#x}");
    }
}

#[test]
fn a_datagram_holds_what_it_should() {
    for_seeds(20_000, |rng| {
        let (src, dst) = (any_address(rng), any_address(rng));
        let (port, tos, ttl) = (rng.u32() as u16, rng.byte(), rng.byte());
        let marks = Marks { port, tos, ttl };
        let packet = any_packet(rng);
        // What was in the buffer must not matter.
        let before = [rng.byte(); DATAGRAM_LEN];
        let written = |checksum| {
            let mut d = before;
            write(&mut d, &src, &dst, marks, &packet, checksum);
            d
        };
        let mut expected = datagram(src, dst, marks, &packet);
        assert_eq!(written(UdpChecksum::Full)[..], expected);
        let partial = pseudo_header_sum(src, dst, 48);
        expected[26..28].copy_from_slice(&partial.to_be_bytes());
        assert_eq!(written(UdpChecksum::Partial)[..], expected);
    });
}

/// RFC 768: a checksum that comes out as 0 is sent as all ones.
#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let (src, dst) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let (port, tos, ttl) = (44880, 0xc0, 64);
    let marks = Marks { port, tos, ttl };
    let mut seen = 0;
    for low in 0..=u16::MAX {
        let packet = Packet {
            desired_min_tx_us: u32::from(low),
            ..packet(State::Up, OURS)
        };
        let mut d = [0; DATAGRAM_LEN];
        write(&mut d, &src, &dst, marks, &packet, UdpChecksum::Full);
        assert_eq!(d[..], datagram(src, dst, marks, &packet));
        seen += usize::from(d[26..28] == [0xff, 0xff]);
    }
    assert!(seen > 0, "no such packet among these");
}

const _: () = assert!(DATAGRAM_LEN == 28 + PACKET_LEN);
