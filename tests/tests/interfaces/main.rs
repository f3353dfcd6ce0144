//! Several interfaces in one agent, which share nothing; interfaces that cannot be served, with the
//! reason; how programs are attached, and the liveness port.

mod apart;
mod attach;
mod guard;
mod scene;
mod shared;
mod unserved;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = shared::tests();
    tests.extend(apart::tests());
    tests.extend(unserved::tests());
    tests.extend(attach::tests());
    tests.extend(guard::tests());
    run(tests)
}
