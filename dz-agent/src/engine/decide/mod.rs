//! Decisions: what was read → what is to be done. Pure functions; they change nothing.

pub(super) mod reconcile;
pub(super) mod select;
