//! The kernel programs of the benches: what the product is compared with, and a far end that costs so
//! little that it is not what is measured. No part of the product.
//!
//! | program | type | what it does |
//! |---|---|---|
//! | `empty_tc`, `empty_xdp` | SCHED_CLS, XDP | nothing |
//! | `reflect_l3`, `reflect_eth` | SCHED_CLS | send each packet back, addresses swapped, whatever it is |
//! | `reflect_xdp` | XDP | the same before the stack |
//! | `respond_eth` | SCHED_CLS, ingress | be every peer that is asked, and Up as soon as can be |
//! | `respond_xdp` | XDP | the same before the stack |
//! | `respond_gre` | SCHED_CLS, ingress | the same on the Ethernet device below a GRE tunnel |
//! | `respond_bfd` | SCHED_CLS, ingress | be every neighbour that BFD itself asks |
//! | `generate` | SCHED_CLS, run by the bench | send packets that the bench has made |
//! | `generate_xdp` | XDP, run by the bench | the same, without socket buffers |
//! | `sink_eth`, `sink_xdp` | SCHED_CLS, ingress; XDP | let liveness packets end here |
#![no_std]
#![no_main]

mod bfd;
#[allow(dead_code)] // the product's, which does more
#[path = "../src/frame.rs"]
mod frame;
mod generate;
mod gre;
#[path = "../src/skb.rs"]
mod skb;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use dz_common::LIVENESS_PORT;
use dz_common::headers::{self, ETHERNET_LEN, Marks, UdpChecksum};
use dz_common::ingress::{self, Fence, Flow, Frame, Link};
use dz_common::packet::{Packet, State, Version};
use frame::Linear;
use skb::Outgoing;

/// Of source and destination in the IPv4 header.
const IPV4_ADDRESSES: usize = 12;
/// Whoever we are, we are known by this discriminator.
const DISCRIMINATOR: u32 = 0x0dd_ba11;
const MARKS: Marks = Marks {
    port: LIVENESS_PORT,
    tos: 0,
    ttl: 64,
};
const FENCE: Fence = Fence {
    port: LIVENESS_PORT,
    min_ttl: 0,
};

/// No code path leads here, as in the product's programs.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the product's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The least that TC can run.
#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The least that XDP can run.
#[xdp]
pub fn empty_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// On a device whose packets start with the IPv4 header.
#[classifier]
pub fn reflect_l3(ctx: TcContext) -> i32 {
    reflect(&ctx, Link::Layer3)
}

/// On a device whose packets start with an Ethernet header.
#[classifier]
pub fn reflect_eth(ctx: TcContext) -> i32 {
    reflect(&ctx, Link::Ethernet)
}

#[inline(always)]
fn reflect(ctx: &TcContext, link: Link) -> i32 {
    if !swap(&skb::linear(ctx), link) {
        return TC_ACT_SHOT;
    }
    // SAFETY: the kernel's own context, and a helper that looks at its arguments only.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}

/// On an Ethernet device, before the stack.
#[xdp]
pub fn reflect_xdp(ctx: XdpContext) -> u32 {
    let (data, data_end) = (ctx.data(), ctx.data_end());
    if swap(
        &Linear::new(data, data_end, data_end - data),
        Link::Ethernet,
    ) {
        XDP_TX
    } else {
        XDP_DROP
    }
}

/// Swaps the addresses of both headers; the checksums stay right.
#[inline(always)]
fn swap(frame: &Linear, link: Link) -> bool {
    let Some(ip) = frame.at::<8>(link.ip_offset() + IPV4_ADDRESSES) else {
        return false;
    };
    // SAFETY: within the frame, and no other reference is alive.
    unsafe {
        let [a, b, c, d, e, f, g, h] = *ip;
        *ip = [e, f, g, h, a, b, c, d];
    }
    if let Link::Ethernet = link {
        let Some(ethernet) = frame.at::<12>(0) else {
            return false;
        };
        // SAFETY: as above.
        unsafe {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *ethernet;
            *ethernet = [g, h, i, j, k, l, a, b, c, d, e, f];
        }
    }
    true
}

/// On an Ethernet device.
#[classifier]
pub fn respond_eth(ctx: TcContext) -> i32 {
    let Some((flow, answer)) = asked(&skb::linear(&ctx), Link::Ethernet) else {
        return TC_ACT_UNSPEC;
    };
    let (Some(answer), Some(addresses)) = (answer, skb::linear(&ctx).at::<12>(0)) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: within the packet, and nothing writes to it meanwhile.
    let [a, b, c, d, e, f, g, h, i, j, k, l] = unsafe { *addresses };
    let (destination, source) = ([g, h, i, j, k, l], [a, b, c, d, e, f]);
    let skb = ctx.skb.skb;
    let full = UdpChecksum::Full;
    let datagram = headers::datagram(&flow.dst, &flow.src, MARKS, &answer, full);
    if Outgoing::new(destination, source, datagram)
        .store(skb, Link::Ethernet)
        .is_err()
    {
        return TC_ACT_SHOT;
    }
    // SAFETY: the kernel's own context, and a helper that looks at its arguments only.
    unsafe { bpf_redirect((*skb).ifindex, 0) as i32 }
}

/// On an Ethernet device, before the stack.
#[xdp]
pub fn respond_xdp(ctx: XdpContext) -> u32 {
    let (data, data_end) = (ctx.data(), ctx.data_end());
    let frame = Linear::new(data, data_end, data_end - data);
    let Some((flow, answer)) = asked(&frame, Link::Ethernet) else {
        return XDP_PASS;
    };
    let (Some(answer), Some(ethernet), Some(datagram)) =
        (answer, frame.at::<12>(0), frame.at(ETHERNET_LEN))
    else {
        return XDP_DROP;
    };
    // SAFETY: both lie within the frame and do not overlap; no other reference is alive.
    unsafe {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *ethernet;
        *ethernet = [g, h, i, j, k, l, a, b, c, d, e, f];
        headers::write(
            &mut *datagram,
            &flow.dst,
            &flow.src,
            MARKS,
            &answer,
            UdpChecksum::Full,
        );
    }
    XDP_TX
}

/// What a frame asks for, if it is a liveness packet, and the answer if there is one.
#[inline(always)]
fn asked(frame: &Linear, link: Link) -> Option<(Flow, Option<Packet>)> {
    let flow = ingress::classify(frame, link, LIVENESS_PORT).ok()?;
    // Our agents send nothing longer.
    let ours = frame.frame_len() == link.frame_len();
    let received = ingress::decode(frame, link, &flow, FENCE)
        .ok()
        .filter(|_| ours);
    Some((flow, received.and_then(|received| reply(&received.packet))))
}

/// Agrees to everything.
#[inline(always)]
fn reply(packet: &Packet) -> Option<Packet> {
    let state = match packet.state {
        State::AdminDown => return None,
        State::Down => State::Init,
        State::Init | State::Up => State::Up,
    };
    Some(Packet {
        state,
        detect_mult: packet.detect_mult,
        my_discr: DISCRIMINATOR,
        your_discr: packet.my_discr,
        desired_min_tx_us: packet.desired_min_tx_us,
        required_min_rx_us: packet.required_min_rx_us,
        passive: true,
        version: Version::new([0; 4]),
        reserved_set: false,
    })
}
