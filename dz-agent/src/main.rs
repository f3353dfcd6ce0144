//! dz-agent: see README.md.
fn main() {}
