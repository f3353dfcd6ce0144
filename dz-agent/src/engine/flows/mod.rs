//! The engine's flows: each file has one order of steps, in straight lines, and calls owners and hands for
//! them.
//!
//! A flow calls only flows further down in this list: notices, events, reload · check · settle, connect ·
//! disconnect · answers · retime · close, open · hold · routes · farewell · transmit · resolve, discard.

pub(super) mod answers;
pub(super) mod borrow;
pub(super) mod check;
pub(super) mod choose;
pub(super) mod close;
pub(super) mod connect;
pub(super) mod discard;
pub(super) mod disconnect;
pub(super) mod diverted;
pub(super) mod due;
pub(super) mod events;
pub(super) mod farewell;
pub(super) mod followed;
pub(super) mod hold;
pub(super) mod interfaces;
pub(super) mod later;
pub(super) mod locals;
pub(super) mod notices;
pub(super) mod open;
pub(super) mod reload;
pub(super) mod resolve;
pub(super) mod retime;
pub(super) mod routes;
pub(super) mod settle;
pub(super) mod surroundings;
pub(super) mod transmit;
pub(super) mod withdraw;

#[cfg(test)]
mod tests;
