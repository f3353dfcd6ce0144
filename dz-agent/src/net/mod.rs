//! Links, addresses and routes of this network namespace, over netlink.
//!
//! Every change is acknowledged by the kernel before it counts as made. Nothing here remembers
//! anything: what is asked is read from the kernel.

mod connection;
pub mod coverage;
pub mod detours;
pub mod driver;
pub(crate) mod error;
mod filter;
mod host_route;
pub mod hosts;
pub mod links;
pub mod local;
mod main_route;
pub mod monitor;
pub mod neighbours;
mod netlink;
mod route;
pub mod routes;

pub use error::NetlinkError;
pub use netlink::Netlink;
