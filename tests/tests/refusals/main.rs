//! What the agent refuses: one clear line, a documented exit code, nothing left behind.

mod requests;
mod scene;
mod start;
mod taken;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = start::tests();
    tests.extend(taken::tests());
    tests.extend(requests::tests());
    run(tests)
}
