//! Receives and answers at TC ingress.
//!
//! `TC_ACT_UNSPEC` (on TCX the same value means "next") hands a packet to whatever program comes
//! after ours, where `TC_ACT_OK` would end the chain.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use dz_common::counters::Counter;
use dz_common::headers::{self, IPV4_LEN, Marks, UdpChecksum};
use dz_common::ingress::{self, Flow, Link};
use dz_common::map::Config;

use crate::count::count;
use crate::frame::Linear;
use crate::priority::first_in_queues;
use crate::receive::{self, Reply, Verdict, Work};
use crate::session::identity;
use crate::skb::{Outgoing, check, frame_len, linear};

/// `PACKET_HOST`: the frame's destination is this host.
const PACKET_HOST: u32 = 0;
const UDP_CHECKSUM_OFFSET: usize = 6;
const ENOENT: i64 = 2;

/// Receives on a device whose packets start with the IPv4 header.
#[classifier]
pub fn dz_tc_l3(ctx: TcContext) -> i32 {
    ingress(&ctx, Link::Layer3)
}

/// Receives on a device whose packets start with an Ethernet header.
#[classifier]
pub fn dz_tc_eth(ctx: TcContext) -> i32 {
    ingress(&ctx, Link::Ethernet)
}

#[inline(always)]
fn ingress(ctx: &TcContext, link: Link) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's own context.
    let ifindex = unsafe { (*skb).ifindex };
    let Some(config) = receive::config() else {
        return TC_ACT_UNSPEC;
    };
    let (frame, flow) = match classify(ctx, link, config) {
        Ok(ours) => ours,
        Err(exit) => return action(receive::pass(exit)),
    };
    let key = receive::key(ifindex, &flow);
    let entry = match receive::find(config, &key) {
        Ok(entry) => entry,
        Err(verdict) => return action(verdict),
    };
    let (_, block) = identity(entry);
    let received = match ingress::decode(&frame, link, &flow, receive::fence(config, entry)) {
        Ok(received) => received,
        Err(exit) => {
            count(block, exit);
            return TC_ACT_SHOT;
        }
    };
    let work = Work {
        config,
        entry,
        packet: received.packet,
        unanswerable: false,
        key,
        block,
        ethernet: link as u32 == Link::Ethernet as u32,
    };
    let mut reply = receive::back(&frame, link, &flow, &received);
    let Some(exit) = receive::handle(&work, &mut reply) else {
        return TC_ACT_SHOT;
    };
    let error = match make_ready(skb, &mut reply, link) {
        Ok(()) => answer(skb, &reply, link as u32),
        Err(error) => error,
    };
    receive::answered(block, exit, error == 0);
    if error != 0 {
        complain(ctx, &reply.peer, error);
        return TC_ACT_SHOT;
    }
    first_in_queues(skb);
    // SAFETY: a helper that looks at its arguments only.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

#[inline(always)]
fn action(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Decides whether a packet is for us, making its headers and payload directly accessible if it
/// may be. An error is the exit of a packet that is not ours.
#[inline(always)]
fn classify(ctx: &TcContext, link: Link, config: &Config) -> Result<(Linear, Flow), Counter> {
    let mut frame = linear(ctx);
    let mut flow = ingress::classify(&frame, link, config.port);
    let incomplete = match &flow {
        Ok(_) | Err(Counter::PassTruncated) => !frame.holds(link.frame_len()),
        Err(_) => false,
    };
    if incomplete {
        let all = frame_len(ctx);
        let wanted = if all < link.frame_len() {
            all
        } else {
            link.frame_len()
        };
        if ctx.pull_data(wanted as u32).is_err() {
            return Err(Counter::PassTruncated);
        }
        frame = linear(ctx);
        flow = ingress::classify(&frame, link, config.port);
    }
    let flow = flow?;
    // SAFETY: the kernel's own context.
    let (pkt_type, vlan) = unsafe { ((*ctx.skb.skb).pkt_type, (*ctx.skb.skb).vlan_present) };
    if vlan != 0 {
        return Err(Counter::PassVlan);
    }
    if pkt_type != PACKET_HOST {
        return Err(Counter::PassNotHost);
    }
    Ok((frame, flow))
}

/// Logs that the answer to a peer has failed. Not inlined: it needs a stack of its own.
#[inline(never)]
fn complain(ctx: &TcContext, peer: &[u8; 4], error: i64) {
    debug!(
        ctx,
        "answer to {:i}: rewriting the packet: error {}", *peer, error
    );
}

/// Makes the packet as long as an answer, and one packet: of several segments (UDP GSO) it would leave in such
/// again. Then finds out for certain whether it is `CHECKSUM_PARTIAL`. Not in [`answer`], whose stack is full.
#[inline(always)]
fn make_ready(skb: *mut __sk_buff, reply: &mut Reply, link: Link) -> Result<(), i64> {
    // SAFETY: the kernel's own context.
    let (len, segment_len) = unsafe { ((*skb).len as usize, (*skb).gso_size) };
    if len != link.frame_len() || segment_len != 0 {
        // SAFETY: the kernel's own context.
        check(unsafe { bpf_skb_change_tail(skb, link.frame_len() as u32, 0) })?;
    }
    if reply.maybe_partial {
        reply.maybe_partial = is_partial(skb, link.ip_offset())?;
    }
    Ok(())
}

/// Turns a packet that is [ready](make_ready) into its answer, in place. Returns 0, or the error of the helper that failed.
#[inline(never)]
fn answer(skb: *mut __sk_buff, reply: &Reply, link: u32) -> i64 {
    let link = if link == Link::Layer3 as u32 {
        Link::Layer3
    } else {
        Link::Ethernet
    };
    match rewrite(skb, reply, link) {
        Ok(()) => 0,
        Err(error) => error,
    }
}

#[inline(always)]
fn rewrite(skb: *mut __sk_buff, reply: &Reply, link: Link) -> Result<(), i64> {
    let Some(config) = receive::config() else {
        return Err(-ENOENT);
    };
    let checksum = if reply.maybe_partial {
        UdpChecksum::Partial
    } else {
        UdpChecksum::Full
    };
    let (local, peer) = (&reply.local, &reply.peer);
    let datagram = headers::datagram(local, peer, Marks::of(config), &reply.packet, checksum);
    Outgoing::new(reply.destination, reply.source, datagram).store(skb, link)
}

/// Says whether the packet is `CHECKSUM_PARTIAL`, given that its UDP checksum field looks like it.
///
/// The kernel does not say, but `bpf_l4_csum_replace` without `BPF_F_PSEUDO_HDR` changes the field
/// of any other packet and leaves that of a partial one alone (inet_proto_csum_replace4).
#[inline(always)]
fn is_partial(skb: *mut __sk_buff, ip_offset: usize) -> Result<bool, i64> {
    let offset = (ip_offset + IPV4_LEN + UDP_CHECKSUM_OFFSET) as u32;
    // Before and after, side by side: apart, each would take eight bytes of the stack.
    let mut fields = [0_u16; 2];
    let [before, after] = &mut fields;
    // SAFETY: the buffers are as long as said.
    unsafe {
        check(bpf_skb_load_bytes(
            skb.cast(),
            offset,
            (&raw mut *before).cast(),
            2,
        ))?;
        check(bpf_l4_csum_replace(skb, offset, 0, 0x0101, 2))?;
        check(bpf_skb_load_bytes(
            skb.cast(),
            offset,
            (&raw mut *after).cast(),
            2,
        ))?;
    }
    Ok(before == after)
}
