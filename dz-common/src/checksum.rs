//! The Internet checksum (RFC 1071), for IPv4 headers and for UDP over IPv4 (RFC 768).
//!
//! Sums are accumulated as native-endian words, which is correct on either byte order as long as the
//! result is stored natively too (RFC 1071 §2(B)).

use crate::unaligned;

/// IP protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;

/// Adds up `N` bytes (`N` even) on top of `sum`, without folding: as 32-bit words, each of which is
/// worth the sum of its halves (RFC 1071 §2(C)). Room for any number of them.
#[inline(always)]
pub fn add<const N: usize>(mut sum: u64, bytes: &[u8; N]) -> u64 {
    const { assert!(N.is_multiple_of(2), "whole 16-bit words only") };
    let (words, rest) = bytes.as_chunks();
    let mut i = 0;
    while i < words.len() {
        sum += unaligned::u32(&words[i]) as u64;
        i += 1;
    }
    if let Some(rest) = rest.first_chunk() {
        sum += unaligned::u16(rest) as u64;
    }
    sum
}

/// Folds carries into 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    // At most 33 bits, then 18, 17 and 16.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Returns the unfolded sum of the UDP pseudo header; `udp_len` is the UDP length field in host order.
#[inline(always)]
pub fn pseudo_header(src: &[u8; 4], dst: &[u8; 4], udp_len: u16) -> u64 {
    let sum = u32::from_ne_bytes(*src) as u64 + u32::from_ne_bytes(*dst) as u64;
    sum + u16::from_ne_bytes([0, IPPROTO_UDP]) as u64 + udp_len.to_be() as u64
}
