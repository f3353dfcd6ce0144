//! Stopping: every peer is told at once and why, and nothing of ours is left; SIGUSR2 leaves it all.

mod disconnect;
mod ethernet;
mod farewell;
mod log;
mod scene;
mod signals;
mod trouble;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = disconnect::tests();
    tests.extend(farewell::tests());
    tests.extend(log::tests());
    tests.extend(signals::tests());
    tests.extend(trouble::tests());
    run(tests)
}
