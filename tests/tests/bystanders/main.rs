//! Other people's things: routes of other protocols and other tables, other TC and XDP programs,
//! other files on bpffs, another agent on another interface. Whatever the agent and `purge` do, they
//! stay byte for byte as they were.

mod filters;
mod paths;
mod scene;
mod xdp;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = paths::tests();
    tests.extend(filters::tests());
    tests.extend(xdp::tests());
    run(tests)
}
