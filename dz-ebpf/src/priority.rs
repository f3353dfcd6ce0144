//! The priority of packets that we make. They carry no mark besides that a gate would believe: every field
//! of a packet can be written by somebody else's program or queue, also in a container.

use aya_ebpf::bindings::__sk_buff;

/// `TC_PRIO_CONTROL` (linux/pkt_sched.h): the first band of the kernel's default queue, so that a queue
/// full of other traffic does not delay liveness packets until sessions go Down.
const PRIO_CONTROL: u32 = 7;

/// Has queues let a packet of ours go first.
#[inline(always)]
pub fn first_in_queues(skb: *mut __sk_buff) {
    // SAFETY: the kernel's own context, in which this field may be written.
    unsafe { (&raw mut (*skb).priority).write_volatile(PRIO_CONTROL) }
}
