//! The loop that carries out what should be: peers → sessions → routes.
//!
//! One task owns everything that changes; it is driven by state changes from the kernel, by
//! netlink notifications, by requests of the API, by the clock, and by a full check every ten
//! seconds that needs none of these to have arrived. It holds nothing that it could not read back.

mod alarm;
mod configured;
mod decide;
mod flows;
mod hands;
mod parts;
mod run;
mod show;
#[cfg(feature = "sim")]
pub mod sim;
mod start;
mod state;
mod stop;
mod turn;

pub use show::inspect::Inspector;
pub use start::run;
