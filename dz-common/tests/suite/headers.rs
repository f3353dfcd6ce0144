//! Checksums and headers, against a plain implementation of RFC 1071.

use crate::support::{OURS, Rng, for_seeds, packet};
use dz_common::checksum;
use dz_common::headers::{DATAGRAM_LEN, Marks, UdpChecksum, write};
use dz_common::packet::{PACKET_LEN, Packet, State};

/// RFC 1071 §1: the one's complement sum of big-endian 16-bit words, end-around carry after each.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// RFC 768: what the checksum of a UDP datagram is computed over.
pub(crate) fn with_pseudo_header(src: &[u8], dst: &[u8], udp: &[u8]) -> Vec<u8> {
    let length = [udp[4], udp[5]];
    [src, dst, &[0, 17], &length, udp].concat()
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
fn sums_agree_with_a_plain_implementation() {
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
        0xffff_ffff_0000_0001,
        u64::MAX,
    ] {
        let bytes = u64::to_be_bytes(sum);
        assert_eq!(checksum::fold(sum), ones_sum(&bytes), "{sum:#x}");
    }
}

#[test]
fn a_datagram_verifies_and_holds_what_it_should() {
    for_seeds(20_000, |rng| {
        let (src, dst) = (any_address(rng), any_address(rng));
        let (port, tos, ttl) = (rng.u32() as u16, rng.byte(), rng.byte());
        let marks = Marks { port, tos, ttl };
        let packet = any_packet(rng);
        // What was in the buffer must not matter.
        let mut d = [rng.byte(); DATAGRAM_LEN];
        write(&mut d, &src, &dst, marks, &packet, UdpChecksum::Full);

        assert_eq!(ones_sum(&d[..20]), 0xffff, "IPv4 header");
        assert_eq!(
            ones_sum(&with_pseudo_header(&src, &dst, &d[20..])),
            0xffff,
            "UDP"
        );
        assert_ne!(d[26..28], [0, 0], "0 means no checksum");
        assert_eq!(d[0..10], [0x45, tos, 0, 68, 0, 0, 0x40, 0, ttl, 17]);
        assert_eq!((&d[12..16], &d[16..20]), (&src[..], &dst[..]));
        assert_eq!(
            (&d[20..22], &d[22..24]),
            (&port.to_be_bytes()[..], &port.to_be_bytes()[..])
        );
        assert_eq!(d[24..26], [0, 48]);
        assert_eq!(d[28..], packet.encode());

        let mut partial = [rng.byte(); DATAGRAM_LEN];
        write(
            &mut partial,
            &src,
            &dst,
            marks,
            &packet,
            UdpChecksum::Partial,
        );
        let pseudo = with_pseudo_header(&src, &dst, &d[20..]);
        assert_eq!(partial[26..28], ones_sum(&pseudo[..12]).to_be_bytes());
        partial[26..28].copy_from_slice(&d[26..28]);
        assert_eq!(partial, d, "only the checksum differs");
    });
}

/// RFC 768: a checksum that comes out as 0 is sent as all ones.
#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let mut seen = 0;
    for low in 0..=u16::MAX {
        let packet = Packet {
            desired_min_tx_us: u32::from(low),
            ..packet(State::Up, OURS)
        };
        let mut d = [0; DATAGRAM_LEN];
        write(
            &mut d,
            &[10, 0, 0, 1],
            &[10, 0, 0, 2],
            Marks {
                port: 44880,
                tos: 0xc0,
                ttl: 64,
            },
            &packet,
            UdpChecksum::Full,
        );
        let mut udp = d[20..].to_vec();
        udp[6..8].fill(0);
        let sum = ones_sum(&with_pseudo_header(&d[12..16], &d[16..20], &udp));
        let expected = if sum == 0xffff { 0xffff } else { !sum };
        seen += usize::from(sum == 0xffff);
        assert_eq!(d[26..28], expected.to_be_bytes());
    }
    assert!(seen > 0, "no such packet among these");
}

const _: () = assert!(DATAGRAM_LEN == 28 + PACKET_LEN);
