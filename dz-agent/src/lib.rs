//! The agent: which peers are wanted, which routes follow, when to transmit. Detection and
//! answering live in the kernel programs; see ARCHITECTURE.md.

pub mod api;
pub mod cli;
pub mod command;
pub mod datapath;
pub mod engine;
pub mod error;
#[cfg(feature = "faults")]
mod faults;
#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hash;
pub mod host;
#[cfg(any(test, feature = "sim"))]
pub mod memory;
pub mod metrics;
pub mod net;
pub mod printable;
pub mod reason;
pub mod settings;
pub mod view;
