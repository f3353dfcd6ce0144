//! A far end behind a GRE tunnel that answers on the device below: the tunnel's own work is the near
//! end's alone.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dz_common::headers::{self, ETHERNET_LEN, ETHERTYPE_IPV4, IPV4_LEN, UdpChecksum};
use dz_common::ingress::Link;

use crate::frame::Linear;
use crate::{asked, swap};

/// Without checksum, key and number (RFC 2784 §2.1).
const GRE_LEN: usize = 4;
const OUTER_LEN: usize = ETHERNET_LEN + IPV4_LEN + GRE_LEN;
/// Version 4, and a header without options.
const PLAIN_IPV4: u8 = 0x45;
const PROTOCOL_OFFSET: usize = ETHERNET_LEN + 9;
const PROTOCOL_GRE: u8 = 47;

/// On an Ethernet device.
#[classifier]
pub fn respond_gre(ctx: TcContext) -> i32 {
    answer(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn answer(ctx: &TcContext) -> Option<i32> {
    let (data, data_end) = (ctx.data(), ctx.data_end());
    let len = ctx.len() as usize;
    let outer = Linear::new(data, data_end, len);
    // SAFETY: within the packet, and nothing writes to it meanwhile.
    let head = unsafe { &*outer.at::<OUTER_LEN>(0)? };
    let [high, low] = ETHERTYPE_IPV4.to_be_bytes();
    let gre = [
        head[OUTER_LEN - 4],
        head[OUTER_LEN - 3],
        head[OUTER_LEN - 2],
        head[OUTER_LEN - 1],
    ];
    let plain = [head[ETHERNET_LEN - 2], head[ETHERNET_LEN - 1]] == [high, low]
        && head[ETHERNET_LEN] == PLAIN_IPV4
        && head[PROTOCOL_OFFSET] == PROTOCOL_GRE
        && gre == [0, 0, high, low];
    if !plain || len < OUTER_LEN {
        return None;
    }
    let inner = Linear::new(data + OUTER_LEN, data_end, len - OUTER_LEN);
    let (flow, answer) = asked(&inner, Link::Layer3)?;
    let (answer, datagram) = (answer?, inner.at(0)?);
    // SAFETY: within the packet; no other reference is alive.
    unsafe {
        headers::write(
            &mut *datagram,
            &flow.dst,
            &flow.src,
            super::MARKS,
            &answer,
            UdpChecksum::Full,
        );
    }
    if !swap(&outer, Link::Ethernet) {
        return None;
    }
    // SAFETY: the kernel's own context, and a helper that looks at its arguments only.
    Some(unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 })
}
