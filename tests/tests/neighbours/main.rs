//! Users of the same host without any rights: what they take, hold, flood or ask for changes nothing.

mod locks;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    run(locks::tests())
}
