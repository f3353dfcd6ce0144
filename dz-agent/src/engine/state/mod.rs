//! Owners: what the engine knows. Each keeps its fields to itself, does no I/O and reads no clock
//! (`now` is an argument), and is tested in its own file.

pub(super) mod agenda;
pub(super) mod backoff;
pub(super) mod checks;
pub(super) mod keys;
pub(super) mod ledger;
