//! The kernel in memory: what unit tests and the simulator run the engine over, in place of a machine.
//!
//! | part | is |
//! |---|---|
//! | [`BpfMaps`] | the maps of dz-ebpf, bounded as those, failing as those, with the memory of their elements |
//! | [`programs`] | the kernel programs: the order of dz-ebpf, the decisions of dz-common |
//! | [`net`] | a network namespace: links, addresses, routes, neighbours, notifications |
//! | [`Kernel`] | one machine: maps, programs on interfaces, time, frames that leave, calls that fail |
//! | [`Handle`] | one agent process on it: its calls, and after which of them it dies |
//!
//! It has no rule of its own: what a packet, a deadline, a command or a turn of the clock does is decided
//! in dz-common, as in the kernel. It reads no clock and draws no random number, and it lists everything
//! in the order of keys: the same calls have the same outcome. It does not know the engine.

mod bounded;
mod calls;
mod clock;
mod counts;
mod errors;
#[cfg(test)]
mod fixture;
mod groups;
mod handle;
mod kernel;
mod maps;
pub mod net;
pub mod programs;
mod requests;
mod ring;
mod sessions;
mod traffic;

pub use calls::{Ask, Call};
pub use clock::Sleep;
pub use handle::{Done, Handle};
pub use kernel::{Device, Kernel, Refuse};
pub use maps::BpfMaps;
pub use sessions::{Element, Sessions};
