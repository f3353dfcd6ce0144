//! Other people's things: routes of other protocols and other tables, other TC and XDP programs,
//! other files on bpffs, another agent on another interface. Whatever the agent and `purge` do, they
//! stay byte for byte as they were.

mod filters;
mod paths;
mod scene;
mod xdp;

use std::process::ExitCode;

use dz_tests::harness::{Requirement, run};

/// What every test here needs.
const NEEDS: [Requirement; 5] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::Tool("bpftool"),
    Requirement::Tool("tc"),
    Requirement::Kernel(6, 6),
];

fn main() -> ExitCode {
    let mut tests = paths::tests();
    tests.extend(filters::tests());
    tests.extend(xdp::tests());
    run(tests)
}
