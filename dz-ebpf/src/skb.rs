//! Access to a socket buffer's packet.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_store_bytes;
use aya_ebpf::programs::TcContext;

use dz_common::headers::{ETHERNET_LEN, ETHERTYPE_IPV4};
use dz_common::ingress::Link;

use crate::frame::Linear;

/// A frame with a packet of ours, so many 32-bit words from its IPv4 header on, made on the stack and stored into a packet as a whole. On the
/// stack every access must be aligned: hence words, and two bytes before the Ethernet header.
#[repr(C, align(8))]
pub struct Outgoing<const WORDS: usize> {
    ethernet: [u32; ETHERNET_WORDS],
    packet: [u32; WORDS],
}

/// Words of the Ethernet header and the two bytes before it.
const ETHERNET_WORDS: usize = 4;
const PADDING: usize = 4 * ETHERNET_WORDS - ETHERNET_LEN;

impl<const WORDS: usize> Outgoing<WORDS> {
    /// Makes a frame. The Ethernet addresses mean nothing where the device has no Ethernet headers.
    #[inline(always)]
    pub fn new(destination: [u8; 6], source: [u8; 6], packet: [u32; WORDS]) -> Self {
        let [a, b, c, d, e, f] = destination;
        let [g, h, i, j, k, l] = source;
        let [m, n] = ETHERTYPE_IPV4.to_be_bytes();
        let ethernet =
            [[0, 0, a, b], [c, d, e, f], [g, h, i, j], [k, l, m, n]].map(u32::from_ne_bytes);
        Self { ethernet, packet }
    }

    /// Overwrites the beginning of a packet. The helper un-shares a cloned packet first; writing
    /// through a packet pointer would have the verifier add that to the path of every foreign packet.
    #[inline(always)]
    pub fn store(&self, skb: *mut __sk_buff, link: Link) -> Result<(), i64> {
        let skip = match link {
            Link::Layer3 => size_of_val(&self.ethernet),
            Link::Ethernet => PADDING,
        };
        // SAFETY: from there on there are as many bytes: the fields leave no gap.
        check(unsafe {
            let from = (&raw const *self).byte_add(skip);
            let len = link.ip_offset() + 4 * WORDS;
            bpf_skb_store_bytes(skb, 0, from.cast(), len as u32, 0)
        })
    }
}

/// Makes a result of a helper's return value.
#[inline(always)]
pub fn check(result: i64) -> Result<(), i64> {
    if result == 0 { Ok(()) } else { Err(result) }
}

/// Returns the directly accessible part of the packet.
#[inline(always)]
pub fn linear(ctx: &TcContext) -> Linear {
    Linear::new(ctx.data(), ctx.data_end(), frame_len(ctx))
}

/// Returns the length of the whole packet.
#[inline(always)]
pub fn frame_len(ctx: &TcContext) -> usize {
    ctx.len() as usize
}
