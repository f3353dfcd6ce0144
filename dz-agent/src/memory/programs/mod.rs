//! The kernel programs, one file for each of dz-ebpf's, in the same order of steps. What they decide is
//! dz-common's; what they have here in place of packets, locks and helpers are bytes and arguments.
//!
//! Two things of a machine are not here: packets whose checksum is still to be completed
//! (`CHECKSUM_PARTIAL`), and values that are written while they are read. That a session may be deleted
//! between a program's look-up and its lock is: see [`receive::begin`].

pub mod control;
mod count;
pub mod detect;
mod frame;
pub mod gate;
pub mod receive;
pub mod transmit;
