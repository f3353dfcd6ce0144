//! Build, demo, test and conformance commands: `cargo xtask --help`.
fn main() {}
