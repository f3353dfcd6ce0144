//! What `dz-common` promises: codec, rules of the session (those marked *ours* against the deployed
//! variant), pacing, ingress classification, two ends talking over a bad link, what an attacker can
//! change of that (nothing), and that no state is a dead end.
//!
//! Random tests print the seed that replays them; `DZ_SEED=N` runs that one alone.

mod attack;
mod codec;
mod entry;
mod gate;
mod headers;
mod ingress;
mod link;
mod model;
mod node;
mod ours;
mod pacing;
mod properties;
mod simulation;
mod support;
mod transitions;
