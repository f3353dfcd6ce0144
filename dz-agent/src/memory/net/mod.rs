//! A network namespace in memory: interfaces, addresses, routes, neighbours, and what the kernel tells of
//! them.
//!
//! It answers as the functions of [`crate::net`] do, and tells what [`crate::net::monitor::Monitor`] tells.
//! It has no clock and draws no lots: what takes time in a kernel (a neighbour's answer) happens when the
//! caller says so. The group `memory` carries out the same operations here and in a kernel.
//!
//! Not there: VRFs, bridges, rules of an administrator, routes with several next hops or with next hop
//! objects, and gateways that are looked up instead of being `onlink`.

mod addresses;
mod changes;
mod fib;
mod links;
mod message;
mod namespace;
mod neighbours;
mod notices;
mod ours;
mod questions;

pub use fib::{Entry, Kind, LOCAL, MAIN, Mode, Which};
pub use links::Shape;
pub use namespace::{Author, Net};
pub use notices::Family;
