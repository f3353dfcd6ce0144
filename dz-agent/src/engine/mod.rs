//! The loop that carries out what should be: peers → sessions → routes.
//!
//! One task owns everything that changes; it is driven by state changes from the kernel, by
//! netlink notifications, by requests of the API, by the clock, and by a full check every ten
//! seconds that needs none of these to have arrived. It holds nothing that it could not read back.

mod alarm;
mod check;
mod choose;
mod close;
mod configured;
mod connect;
mod detours;
mod disconnect;
mod diverted;
mod due;
mod events;
mod farewell;
mod followed;
mod front;
mod hands;
mod inspect;
mod interfaces;
mod locals;
mod mirror;
mod notices;
mod parts;
mod reconcile;
mod resolve;
mod reverse_path;
mod routes;
mod run;
mod scrapes;
mod shared;
mod sources;
mod start;
mod state;
mod stop;
mod surroundings;
mod transmit;
mod turn;
mod unfollowed;
mod withdraw;

pub use inspect::Inspector;
pub use start::run;
