//! A few instructions in front of a program, for what `BPF_PROG_TEST_RUN` cannot say about a packet.
//!
//! It takes every packet for an Ethernet frame (net/bpf/test_run.c, `is_l2`): `skb->data` is the
//! first byte given, so `dz_tc_l3` finds its IPv4 header there when it is given nothing before it,
//! but eth_type_trans has compared the first six bytes with the device's address, and an IPv4
//! header (0x45: a group address) never makes `PACKET_HOST`; `__sk_buff.pkt_type` and `vlan_*` must
//! be zero in the context given. So a program of ours sets them by helper, then tail-calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use etherparse::EtherType;

const TAIL_CALL: u64 = 12;
const SKB_VLAN_PUSH: u64 = 18;
const SKB_CHANGE_TYPE: u64 = 32;
const PACKET_HOST: u64 = 0;
const VLAN_ID: u64 = 5;
/// Returned if the tail call fails: no verdict of any program.
pub(crate) const FAILED: u32 = 77;

/// The program in front.
pub(crate) struct Trampoline {
    program: OwnedFd,
    // The tail call's way; the program holds it, too.
    _target: OwnedFd,
}

impl Trampoline {
    /// Makes the packet one for this host.
    pub(crate) fn to_host(target: BorrowedFd<'_>) -> io::Result<Self> {
        Self::new(target, &[load(2, PACKET_HOST), call(SKB_CHANGE_TYPE)])
    }

    /// Puts a VLAN tag beside the packet, as a driver does that strips it.
    pub(crate) fn tagged(target: BorrowedFd<'_>) -> io::Result<Self> {
        let ethertype = load(2, EtherType::VLAN_TAGGED_FRAME.0.to_be().into());
        Self::new(target, &[ethertype, load(3, VLAN_ID), call(SKB_VLAN_PUSH)])
    }

    fn new(target: BorrowedFd<'_>, before: &[u64]) -> io::Result<Self> {
        let map = dz_tests::bpf::program_array(target)?;
        let mut instructions = vec![copy(6, 1)];
        instructions.extend(before);
        instructions.push(copy(1, 6));
        instructions.extend(load_map(2, &map));
        instructions.extend([load(3, 0), call(TAIL_CALL), load(0, FAILED.into()), EXIT]);
        Ok(Self {
            program: dz_tests::bpf::load_classifier(&instructions)?,
            _target: map,
        })
    }
}

impl AsFd for Trampoline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

// `struct bpf_insn`: opcode, destination and source register, offset, immediate.
const EXIT: u64 = 0x95;

const fn copy(to: u64, from: u64) -> u64 {
    0xbf | to << 8 | from << 12
}

const fn load(to: u64, value: u64) -> u64 {
    0xb7 | to << 8 | value << 32
}

const fn call(helper: u64) -> u64 {
    0x85 | helper << 32
}

/// BPF_PSEUDO_MAP_FD.
fn load_map(to: u64, map: &OwnedFd) -> [u64; 2] {
    [0x18 | to << 8 | 1 << 12 | (map.as_raw_fd() as u64) << 32, 0]
}
