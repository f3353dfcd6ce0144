//! Marks by which a program of ours tells a gate further on about a packet: `skb->tc_index`. It stays
//! with the packet on its way through this host, and nothing else has used it since the kernel lost
//! `tcindex` and `dsmark`, which wrote numbers below 256.

use aya_ebpf::bindings::__sk_buff;

/// Says that a gate has diverted the packet.
const DIVERTED: u32 = 0xd2a6;
/// Says that our programs have made the packet: a liveness packet of the address whose block of
/// counters is in the lower half.
const LIVENESS: u32 = 0xd300;
const BLOCK_MASK: u32 = 0xff;
/// `TC_PRIO_CONTROL` (linux/pkt_sched.h): the first band of the kernel's default queue, so that a queue
/// full of other traffic does not delay liveness packets until sessions go Down.
const PRIO_CONTROL: u32 = 7;

/// Whether a gate has diverted the packet.
#[inline(always)]
pub fn is_diverted(skb: *mut __sk_buff) -> bool {
    read(skb) == DIVERTED
}

/// Marks the packet as diverted by a gate.
#[inline(always)]
pub fn divert(skb: *mut __sk_buff) {
    write(skb, DIVERTED);
}

/// Says that the packet is a liveness packet of ours: queues let it go first, and the gate need not
/// look at it. Blocks that do not fit have the gate look.
#[inline(always)]
pub fn liveness(skb: *mut __sk_buff, block: u32) {
    let fits = block <= BLOCK_MASK;
    write(skb, if fits { LIVENESS | block } else { 0 });
    // SAFETY: the kernel's own context, in which this field may be written.
    unsafe { (&raw mut (*skb).priority).write_volatile(PRIO_CONTROL) }
}

/// Returns the block of a liveness packet of ours. The mark ends here: a tunnel's device may be followed by
/// another one with a gate, and to that the packet is a tunnel's.
#[inline(always)]
pub fn take_liveness(skb: *mut __sk_buff) -> Option<u32> {
    let mark = read(skb);
    if mark & !BLOCK_MASK != LIVENESS {
        return None;
    }
    write(skb, 0);
    Some(mark & BLOCK_MASK)
}

#[inline(always)]
fn read(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the kernel's own context.
    unsafe { (&raw const (*skb).tc_index).read_volatile() }
}

#[inline(always)]
fn write(skb: *mut __sk_buff, mark: u32) {
    // SAFETY: the kernel's own context, in which this field may be written.
    unsafe { (&raw mut (*skb).tc_index).write_volatile(mark) }
}
