//! Rules about the tree itself, each a test. A rule's message says where it is broken; what breaks
//! one today stands in [`exceptions`], whose lists may only become shorter.
//!
//! `cargo test -p xtask --bin xtask tidy`; with `-- --nocapture` the cycles that are still excepted
//! are shown, too, with every reference that makes them.

mod code_map;
mod command_line;
mod crates;
mod cycles;
mod engine;
mod exceptions;
mod finished;
mod length;
mod methods;
mod paths;
mod references;
mod rooms;
mod scope;
mod steps;
mod tree;
mod writers;
