//! Code that the kernel programs, the agent and the tests share: the wire format, the
//! session state machine, packet headers, the layout of the BPF maps and the names of everything
//! that is counted.
//!
//! `no_std`, no clock, no I/O, no allocation and no panic path: time and random numbers are
//! arguments. Conventions: instants are nanoseconds of `CLOCK_MONOTONIC` (`_ns`, 0 = never),
//! intervals are microseconds as on the wire (`_us`), addresses are `[u8; 4]` in network order,
//! everything else in map values is in host byte order.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod checksum;
pub mod control;
pub mod counters;
#[cfg(feature = "deployed")]
pub mod deployed;
pub mod detection;
pub mod entry;
#[cfg(test)]
mod fixture;
pub mod gate;
pub mod headers;
pub mod ingress;
pub mod map;
pub mod pacing;
pub mod packet;
pub mod scan;
pub mod session;
mod timers;
pub mod too_big;
pub mod transmit;
pub mod unaligned;

/// UDP port of the liveness protocol.
pub const LIVENESS_PORT: u16 = 44880;
