//! The Internet checksum (RFC 1071), for IPv4 headers and for UDP over IPv4 (RFC 768).
//!
//! Sums are accumulated as native-endian 16-bit words, which is correct on either byte order as
//! long as the result is stored natively too (RFC 1071 §2(B)).

/// IP protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;

/// Adds up `N` bytes (`N` even) as 16-bit words on top of `sum`, without folding.
#[inline(always)]
pub fn add<const N: usize>(mut sum: u32, bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(2), "whole 16-bit words only") };
    let mut i = 0;
    while i + 1 < N {
        sum += u16::from_ne_bytes([bytes[i], bytes[i + 1]]) as u32;
        i += 2;
    }
    sum
}

/// Folds carries into 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The unfolded sum of the UDP pseudo header; `udp_len` is the UDP length field in host order.
#[inline(always)]
pub fn pseudo_header(src: &[u8; 4], dst: &[u8; 4], udp_len: u16) -> u32 {
    let sum = add(add(0, src), dst);
    sum + u16::from_ne_bytes([0, IPPROTO_UDP]) as u32 + udp_len.to_be() as u32
}
