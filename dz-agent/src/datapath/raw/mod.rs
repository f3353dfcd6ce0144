//! Commands of bpf(2) that aya does not offer, or offers only for types known at compile time.

pub(super) mod barrier;
pub(super) mod batch;
pub(super) mod call;
mod info;
pub(super) mod link;
pub(super) mod map;
pub(super) mod query;
pub(super) mod run;
