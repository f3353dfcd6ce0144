//! Follow mode: the /32 routes that another daemon installs on the interface are peers, and stay
//! that daemon's, byte for byte.

mod appear;
mod choice;
mod inert;
mod policy;
mod precedence;
mod room;
mod scene;
mod silent;
mod storm;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = appear::tests();
    tests.extend(choice::tests());
    tests.extend(inert::tests());
    tests.extend(policy::tests());
    tests.extend(precedence::tests());
    tests.extend(room::tests());
    tests.extend(silent::tests());
    tests.extend(storm::tests());
    run(tests)
}
