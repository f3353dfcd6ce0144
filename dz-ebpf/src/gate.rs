//! The gate, at TC egress: it keeps packets from a peer's address while its session is not Up.
//!
//! | packet | becomes |
//! |---|---|
//! | not IPv4, or to an address that is no peer's | passed on after one look-up |
//! | a liveness packet, ours or another agent's | passed on: it is what brings the session Up |
//! | to a peer that is Up and not held, or passive | passed on |
//! | to a peer that was never Up | as `--when-never-up` says |
//! | to a peer that is not Up any more | as `--when-down` says |
//!
//! A packet is diverted only to an interface that the agent has named, and to none where a gate of ours
//! could divert it again; which next hop it takes there the kernel looks up for each packet, so that this
//! stays right while the agent is frozen. Nothing that a packet carries is believed but its headers.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_skb_change_head};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dz_common::counters::{Counter, NO_BLOCK};
use dz_common::entry::is_held;
use dz_common::gate::{self, Action, Facts};
use dz_common::headers::ETHERNET_LEN;
use dz_common::ingress::Link;
use dz_common::map::{Config, Confined, Destination, SessionEntry};

use crate::count::count;
use crate::frame::Linear;
use crate::maps::{CONFINED, SESSIONS};
use crate::receive;
use crate::session::identity;
use crate::skb::linear;
use crate::too_big;

const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;

/// Gates the egress of a device whose packets start with the IPv4 header.
#[classifier]
pub fn dz_gate_l3(ctx: TcContext) -> i32 {
    egress(&ctx, Link::Layer3)
}

/// Gates the egress of a device whose packets start with an Ethernet header.
#[classifier]
pub fn dz_gate_eth(ctx: TcContext) -> i32 {
    egress(&ctx, Link::Ethernet)
}

#[inline(always)]
fn egress(ctx: &TcContext, link: Link) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's own context.
    let (ifindex, protocol, vlan) =
        unsafe { ((*skb).ifindex, (*skb).protocol, (*skb).vlan_present) };
    // A layer-3 device writes this protocol into its own header; in the packet nothing says that
    // four bits of 4 are a version.
    if vlan != 0 || (link as u32 == Link::Layer3 as u32 && protocol != ETH_P_IP) {
        return pass(NO_BLOCK, Counter::GateNotIpv4);
    }
    let Some(frame) = frame(ctx, link) else {
        return pass(NO_BLOCK, Counter::GateNotIpv4);
    };
    let Some((src, dst)) = gate::addresses(&frame, link) else {
        return pass(NO_BLOCK, Counter::GateNotIpv4);
    };
    let Some(entry) = SESSIONS.get_ptr_mut(Destination { ifindex, peer: dst }) else {
        return pass(NO_BLOCK, Counter::GateNoSession);
    };
    let (_, block) = identity(entry);
    let Some(config) = receive::config() else {
        return pass(block, Counter::Fault);
    };
    if gate::is_liveness(&frame, link, config.port) {
        return pass(block, Counter::GateLiveness);
    }
    let (action, exit) = facts(entry, config).verdict(config);
    match action {
        Action::Pass => pass(block, exit),
        Action::Drop => drop(block, exit),
        Action::Reroute => {
            let around = Destination {
                ifindex: detour(entry),
                peer: dst,
            };
            reroute(skb, &frame, link, Confined { addr: src }, around, block)
        }
    }
}

#[inline(always)]
fn pass(block: u32, exit: Counter) -> i32 {
    count(block, exit);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn drop(block: u32, exit: Counter) -> i32 {
    count(block, exit);
    TC_ACT_SHOT
}

/// Makes the packet's headers directly readable, if it has any.
#[inline(always)]
fn frame(ctx: &TcContext, link: Link) -> Option<Linear> {
    let frame = linear(ctx);
    let wanted = gate::wanted_len(link);
    if frame.holds(wanted) {
        return Some(frame);
    }
    // 0: all that is linear already. Only a packet socket leaves headers in pages.
    let all = ctx.len() as usize;
    let len = if all < wanted { all } else { wanted };
    ctx.pull_data(len as u32).ok()?;
    Some(linear(ctx))
}

/// Reads the facts of the verdict without the session's lock: each of them is one load that cannot
/// tear, and state and `held` alone decide what changes while packets flow. `ups` is read first: it only
/// grows, so 0 means that no state before this moment was Up. The agent gives the memory to another
/// session only after every program that could have found this one has ended.
#[inline(always)]
fn facts(entry: *mut SessionEntry, config: &Config) -> Facts {
    // SAFETY: a live map value, written by other CPUs, hence volatile; every byte that is ever
    // stored there is a valid one.
    unsafe {
        let session = &raw const (*entry).session;
        let ups = (&raw const (*session).ups).read_volatile();
        let peer_mode = (&raw const (*session).peer_mode).read_volatile();
        let mode = (&raw const (*session).timers.mode).read_volatile();
        let held = (&raw const (*entry).held).read_volatile();
        let state = (&raw const (*session).state).read_volatile();
        Facts {
            state,
            held: is_held(held),
            ups,
            passive: gate::is_passive(mode, peer_mode, config.ignore_peer_passive != 0),
        }
    }
}

/// Reads the way around a peer, as the [`facts`] are.
#[inline(always)]
fn detour(entry: *mut SessionEntry) -> u32 {
    // SAFETY: a live map value, written by other CPUs, hence volatile.
    unsafe { (&raw const (*entry).detour).read_volatile() }
}

#[inline(always)]
fn reroute(
    skb: *mut __sk_buff,
    frame: &Linear,
    link: Link,
    source: Confined,
    around: Destination,
    block: u32,
) -> i32 {
    // SAFETY: a look-up whose value is not used.
    if unsafe { CONFINED.get(&source) }.is_some() {
        return drop(block, Counter::GateConfined);
    }
    // With a session by that interface, its gate might divert the packet back.
    if around.ifindex == 0 || SESSIONS.get_ptr(around).is_some() {
        return drop(block, Counter::GateNoDetour);
    }
    match too_big::exceeded(skb, around.ifindex, gate::total_len(frame, link)) {
        Ok(None) => {}
        Ok(Some(mtu)) => return refuse(skb, frame, link, mtu, block),
        Err(_) => return drop(block, Counter::GateRerouteFailed),
    }
    if let Link::Layer3 = link {
        // bpf_redirect_neigh takes an Ethernet header off, whatever the device (net/core/filter.c,
        // __bpf_redirect_neigh): without one it drops the packet without a word.
        // SAFETY: the kernel's own context.
        if unsafe { bpf_skb_change_head(skb, ETHERNET_LEN as u32, 0) } != 0 {
            return drop(block, Counter::GateRerouteFailed);
        }
    }
    count(block, Counter::GateRerouted);
    // Without a next hop of ours the kernel looks the destination up among the routes by that
    // interface. Where there is none it takes the destination for a neighbour (ip_route_output_key):
    // hence the agent names only an interface with a route.
    // SAFETY: a helper that looks at its arguments only; it may be given no parameters.
    unsafe { bpf_redirect_neigh(around.ifindex, ptr::null_mut(), 0, 0) as i32 }
}

/// Tells the source of a packet that is too big for the way around, or drops it without a word. To divert
/// it all the same would be no better: the other device drops it, and nobody counts that.
#[inline(always)]
fn refuse(skb: *mut __sk_buff, frame: &Linear, link: Link, mtu: u32, block: u32) -> i32 {
    match too_big::tell(skb, frame, link, mtu) {
        Some(action) => {
            count(block, Counter::GateFragNeeded);
            action
        }
        None => drop(block, Counter::GateTooBig),
    }
}
