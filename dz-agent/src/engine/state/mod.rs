//! The engine's owners: each holds one thing that the engine knows. An owner has private fields, does no
//! I/O, reads no clock (`now` is an argument), and is tested in its own file.

pub(super) mod agenda;
pub(super) mod backoff;
pub(super) mod batches;
pub(super) mod blocks;
pub(super) mod checks;
pub(super) mod clock;
pub(super) mod closings;
pub(super) mod damping;
pub(super) mod detours;
pub(super) mod ends;
pub(super) mod farewell;
pub(super) mod followed;
pub(super) mod host_addresses;
pub(super) mod interface;
pub(super) mod interfaces;
pub(super) mod keys;
pub(super) mod ledger;
pub(super) mod left;
pub(super) mod mirror;
pub(super) mod next_hops;
pub(super) mod recent;
pub(super) mod reloads;
pub(super) mod routes;
pub(super) mod sessions;
pub(super) mod slots;
pub(super) mod unfollowed;
pub(super) mod wants;
pub(super) mod ways;
