//! The engine's decisions: pure functions from the facts that were read to the steps to be taken.

pub(super) mod lists;
pub(super) mod reconcile;
pub(super) mod reload;
pub(super) mod select;
pub(super) mod sound;
