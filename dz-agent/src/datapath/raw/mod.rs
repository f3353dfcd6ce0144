//! bpf(2), for the commands that aya does not offer, or for types of compile time only.

pub(super) mod batch;
pub(super) mod call;
mod info;
pub(super) mod link;
pub(super) mod map;
pub(super) mod run;
