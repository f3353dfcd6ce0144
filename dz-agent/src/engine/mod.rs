//! The engine derives sessions from peers and routes from sessions, and changes the kernel accordingly.
//!
//! One task owns everything that changes. State changes from the kernel, netlink notifications, requests
//! of the API and the clock wake it up; a full check every ten seconds finds what none of these has told.
//! The engine holds nothing that it could not read back from the kernel, the options or the file of peers.

mod alarm;
mod configured;
mod decide;
mod flows;
mod hands;
mod parts;
mod prepare;
mod round;
mod run;
mod show;
#[cfg(feature = "sim")]
pub mod sim;
mod start;
mod state;
mod stop;
mod turn;

pub use prepare::prepare;
pub use show::inspect::Inspector;
pub use start::run;
