//! The ICMP error "fragmentation needed" (RFC 792, RFC 1191), which tells a packet's source how large
//! packets may be that go around.

use crate::checksum;
use crate::headers::IPV4_LEN;
use crate::unaligned::word;

/// Bytes of the packet that the error quotes: its header, and the first eight behind it, by which the
/// source finds the socket.
pub const QUOTE_LEN: usize = IPV4_LEN + 8;
/// The error, an IPv4 packet.
pub const ERROR_LEN: usize = IPV4_LEN + ICMP_LEN + QUOTE_LEN;
/// [`ERROR_LEN`] in 32-bit words.
pub const ERROR_WORDS: usize = ERROR_LEN / 4;

const ICMP_LEN: usize = 8;
const IPPROTO_ICMP: u8 = 1;
/// Destination unreachable, fragmentation needed.
const TYPE_AND_CODE: [u8; 2] = [3, 4];
/// Internetwork control, as the kernel's own errors.
const TOS: u8 = 0xc0;
const TTL: u8 = 64;
/// DF alone: neither a fragment nor followed by one.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// What every host can receive (RFC 791). The kernel believes in no path with less, and neither do its
/// tunnels' errors (`iptunnel_pmtud_check_icmp`), whose rules these are.
const SMALLEST_MTU: u32 = 576;

/// Makes the error about a packet, of which the beginning is given, as 32-bit words in memory order. It
/// comes in the name of the packet's destination, as those of the kernel's tunnels do. None if the
/// source is not to be told: the packet has IPv4 options, may be fragmented, is an ICMP error itself or
/// from no single host.
#[inline(always)]
pub fn fragmentation_needed(quote: &[u8; QUOTE_LEN], mtu: u32) -> Option<[u32; ERROR_WORDS]> {
    let [w0, w1, w2, src, dst, w5, w6] = [
        word::<0, _>(quote),
        word::<1, _>(quote),
        word::<2, _>(quote),
        word::<3, _>(quote),
        word::<4, _>(quote),
        word::<5, _>(quote),
        word::<6, _>(quote),
    ];
    let [version_ihl, ..] = w0.to_ne_bytes();
    let [_, _, fragment @ ..] = w1.to_ne_bytes();
    let [_, protocol, ..] = w2.to_ne_bytes();
    let [icmp_type, ..] = w5.to_ne_bytes();
    if version_ihl != 0x45
        || fragment != DONT_FRAGMENT
        || !(SMALLEST_MTU..=u16::MAX as u32).contains(&mtu)
        || (protocol == IPPROTO_ICMP && !is_question_or_answer(icmp_type))
        || !is_one_host(src)
        || !is_one_host(dst)
    {
        return None;
    }
    let [len_high, len_low] = (ERROR_LEN as u16).to_be_bytes();
    let [mtu_high, mtu_low] = (mtu as u16).to_be_bytes();
    let first = number([0x45, TOS, len_high, len_low]);
    let second = number([0, 0, 0x40, 0]);
    let third = number([TTL, IPPROTO_ICMP, 0, 0]);
    let header = first as u64 + second as u64 + third as u64 + src as u64 + dst as u64;
    let [a, b] = (!checksum::fold(header)).to_ne_bytes();
    let [icmp, code] = TYPE_AND_CODE;
    let size = number([0, 0, mtu_high, mtu_low]);
    let said = number([icmp, code, 0, 0]) as u64 + size as u64;
    let [c, d] = (!checksum::fold(checksum::add(said, quote))).to_ne_bytes();
    Some([
        first,
        second,
        number([TTL, IPPROTO_ICMP, a, b]),
        dst,
        src,
        number([icmp, code, c, d]),
        size,
        w0,
        w1,
        w2,
        src,
        dst,
        w5,
        w6,
    ])
}

/// Says whether an ICMP message is none of the errors, which are not answered by errors (RFC 1122 §3.2.2):
/// echo, timestamp and the like.
#[inline(always)]
const fn is_question_or_answer(icmp_type: u8) -> bool {
    matches!(icmp_type, 0 | 8..=10 | 13..=18)
}

/// Says whether an address is one host's that the error can reach: not 0.0.0.0/8, 127.0.0.0/8 nor
/// above 224.0.0.0.
#[inline(always)]
const fn is_one_host(address: u32) -> bool {
    let [first, ..] = address.to_ne_bytes();
    !matches!(first, 0 | 127 | 224..)
}

#[inline(always)]
const fn number(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: [u8; 4] = [10, 0, 0, 1];
    const DESTINATION: [u8; 4] = [192, 0, 2, 7];
    const MTU: u32 = 1_400;

    /// The beginning of a large TCP segment.
    fn large() -> [u8; QUOTE_LEN] {
        let mut packet = [0; QUOTE_LEN];
        packet[..12].copy_from_slice(&[0x45, 0, 5, 220, 0, 9, 0x40, 0, 64, 6, 0xab, 0xcd]);
        packet[12..16].copy_from_slice(&SOURCE);
        packet[16..20].copy_from_slice(&DESTINATION);
        packet[20..].copy_from_slice(&[0x1f, 0x90, 0, 80, 1, 2, 3, 4]);
        packet
    }

    fn bytes(words: [u32; ERROR_WORDS]) -> Vec<u8> {
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn the_error_quotes_the_packet_and_names_the_size() {
        let error = bytes(fragmentation_needed(&large(), MTU).unwrap());
        assert_eq!(error.len(), ERROR_LEN);
        assert_eq!((error[0], error[9]), (0x45, IPPROTO_ICMP));
        assert_eq!(usize::from(error[3]), ERROR_LEN);
        assert_eq!(error[12..16], DESTINATION);
        assert_eq!(error[16..20], SOURCE);
        assert_eq!(error[20..22], TYPE_AND_CODE);
        assert_eq!(error[24..28], [0, 0, 5, 120]);
        assert_eq!(error[28..], large());
        let header: &[u8; IPV4_LEN] = error.first_chunk().unwrap();
        assert_eq!(checksum::fold(checksum::add(0, header)), 0xffff);
        let message: &[u8; ICMP_LEN + QUOTE_LEN] = error[IPV4_LEN..].try_into().unwrap();
        assert_eq!(checksum::fold(checksum::add(0, message)), 0xffff);
    }

    #[test]
    fn a_source_is_told_only_what_it_may_be_told() {
        let refused = |change: fn(&mut [u8; QUOTE_LEN])| {
            let mut packet = large();
            change(&mut packet);
            fragmentation_needed(&packet, MTU).is_none()
        };
        assert!(refused(|packet| packet[0] = 0x46), "options");
        assert!(refused(|packet| packet[6] = 0), "may be fragmented");
        assert!(refused(|packet| packet[6] = 0x60), "more fragments");
        assert!(refused(|packet| packet[7] = 1), "not the first fragment");
        for first in [0, 127, 224, 255] {
            let mut packet = large();
            packet[12] = first;
            assert_eq!(fragmentation_needed(&packet, MTU), None, "{first}");
        }
        for (icmp_type, told) in [(8, true), (0, true), (3, false), (11, false), (5, false)] {
            let mut packet = large();
            (packet[9], packet[20]) = (IPPROTO_ICMP, icmp_type);
            let error = fragmentation_needed(&packet, MTU);
            assert_eq!(error.is_some(), told, "ICMP {icmp_type}");
        }
        assert_eq!(fragmentation_needed(&large(), 575), None);
        assert_eq!(fragmentation_needed(&large(), 65_536), None);
    }
}
