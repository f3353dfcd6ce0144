//! A far end for BFD itself (RFC 5880, over several hops as RFC 5883 has it): every neighbour that is
//! asked, and Up as soon as can be.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dz_common::headers::{ETHERNET_LEN, IPV4_LEN, UDP_LEN};
use dz_common::ingress::{self, Link};
use dz_common::packet::State;

use crate::{DISCRIMINATOR, skb, swap};

/// RFC 5883 §5.
const MULTIHOP_PORT: u16 = 4_784;
/// The first that a sender may have (RFC 5881 §4).
const SOURCE_PORT: u16 = 49_152;
/// A control packet without authentication (RFC 5880 §4.1).
const CONTROL_LEN: usize = 24;
const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;

/// On an Ethernet device.
#[classifier]
pub fn respond_bfd(ctx: TcContext) -> i32 {
    let frame = skb::linear(&ctx);
    if ingress::classify(&frame, Link::Ethernet, MULTIHOP_PORT).is_err() {
        return TC_ACT_UNSPEC;
    }
    let udp = ETHERNET_LEN + IPV4_LEN;
    let (Some(header), Some(control)) = (
        frame.at::<UDP_LEN>(udp),
        frame.at::<CONTROL_LEN>(udp + UDP_LEN),
    ) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: both lie within the frame and do not overlap; no other reference is alive.
    unsafe {
        let state = match (*control)[1] >> 6 {
            0 => return TC_ACT_SHOT,
            1 => State::Init,
            _ => State::Up,
        };
        let last = if (*control)[1] & POLL == 0 { 0 } else { FINAL };
        let [high, low] = SOURCE_PORT.to_be_bytes();
        [(*header)[0], (*header)[1]] = [high, low];
        // No checksum (RFC 768).
        [(*header)[6], (*header)[7]] = [0; 2];
        (*control)[0] = 1 << 5; // version, no diagnostic
        (*control)[1] = (state as u8) << 6 | last;
        let [a, b, c, d] = DISCRIMINATOR.to_be_bytes();
        let [e, f, g, h] = [(*control)[4], (*control)[5], (*control)[6], (*control)[7]];
        [(*control)[4], (*control)[5], (*control)[6], (*control)[7]] = [a, b, c, d];
        [(*control)[8], (*control)[9], (*control)[10], (*control)[11]] = [e, f, g, h];
    }
    if !swap(&frame, Link::Ethernet) {
        return TC_ACT_SHOT;
    }
    // SAFETY: the kernel's own context, and a helper that looks at its arguments only.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}
