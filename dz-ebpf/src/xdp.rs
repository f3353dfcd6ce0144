//! Receives and answers in XDP, native or generic.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_tail;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use dz_common::headers::{self, DATAGRAM_LEN, ETHERNET_LEN, Marks, UdpChecksum};
use dz_common::ingress::{self, Frame, Link};
use dz_common::map::Config;

use crate::count::count;
use crate::frame::Linear;
use crate::receive::{self, Reply, Verdict, Work};
use crate::session::identity;

const LINK: Link = Link::Ethernet;
/// Bytes of an Ethernet header's addresses, in front of its EtherType.
const ETHERNET_ADDRESSES_LEN: usize = 12;

/// Receives on an Ethernet device, before the stack.
#[xdp]
pub fn dz_xdp(ctx: XdpContext) -> u32 {
    let Some(config) = receive::config() else {
        return XDP_PASS;
    };
    let frame = linear(ctx.ctx);
    let flow = match ingress::classify(&frame, LINK, config.port) {
        Ok(flow) => flow,
        Err(exit) => return action(receive::pass(exit)),
    };
    let key = receive::key(ctx.ingress_ifindex() as u32, &flow);
    let entry = match receive::find(config, &key) {
        Ok(entry) => entry,
        Err(verdict) => return action(verdict),
    };
    let (_, block) = identity(entry);
    let received = match ingress::decode(&frame, LINK, &flow, receive::fence(config, entry)) {
        Ok(received) => received,
        Err(exit) => {
            count(block, exit);
            return XDP_DROP;
        }
    };
    let work = Work {
        config,
        entry,
        packet: received.packet,
        // Generic XDP sends a packet of several segments (UDP GSO) as such, whatever is left of it, and
        // a program cannot tell it from another.
        unanswerable: received.is_long,
        key,
        block,
        ethernet: true,
    };
    let mut reply = receive::back(&frame, LINK, &flow, &received);
    let Some(exit) = receive::handle(&work, &mut reply) else {
        return XDP_DROP;
    };
    let sent = answer(ctx.ctx, config, &reply) != 0;
    receive::answered(block, exit, sent);
    if sent {
        XDP_TX
    } else {
        debug!(
            &ctx,
            "answer to {:i}: the frame cannot be rewritten", key.peer
        );
        XDP_DROP
    }
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

/// Turns the frame into its answer, in place. Returns 0 if it could not. The checksum is always a
/// full one: nobody behind `XDP_TX` completes a partial one.
#[inline(always)]
fn answer(ctx: *mut xdp_md, config: &Config, reply: &Reply) -> u32 {
    let surplus = linear(ctx).frame_len() as i32 - LINK.frame_len() as i32;
    if surplus != 0 {
        // SAFETY: the kernel's own context.
        if unsafe { bpf_xdp_adjust_tail(ctx, -surplus) } != 0 {
            return 0;
        }
    }
    let frame = linear(ctx);
    let (Some(ethernet), Some(ip)) = (
        frame.at::<ETHERNET_ADDRESSES_LEN>(0),
        frame.at::<DATAGRAM_LEN>(ETHERNET_LEN),
    ) else {
        return 0;
    };
    // SAFETY: both lie within the frame and do not overlap; no other reference is alive.
    unsafe {
        let [a, b, c, d, e, f] = reply.destination;
        let [g, h, i, j, k, l] = reply.source;
        *ethernet = [a, b, c, d, e, f, g, h, i, j, k, l];
        headers::write(
            &mut *ip,
            &reply.local,
            &reply.peer,
            Marks::of(config),
            &reply.packet,
            UdpChecksum::Full,
        );
    }
    1
}

#[inline(always)]
fn linear(ctx: *mut xdp_md) -> Linear {
    // SAFETY: the kernel's own context.
    let (data, data_end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    Linear::new(data, data_end, data_end - data)
}
