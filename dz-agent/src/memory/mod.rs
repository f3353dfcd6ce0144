//! The kernel in memory: what the engine touches, for unit tests and the simulator.

pub mod net;
