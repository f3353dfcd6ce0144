//! Rules about the tree itself, each a test: `cargo test -p xtask --bin xtask tidy`.

mod code_map;
mod finished;
mod steps;
mod tree;
