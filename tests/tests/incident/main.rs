//! The incident that this project exists for: connect with an allocated address, disconnect,
//! connect again without it, and sessions of the old address go on for ever, their packets refused by
//! a network that they have no address in. Replayed step by step, with the wire as the witness; and
//! once more with the disconnect forgotten.

mod forgotten;
mod replay;
mod scene;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = replay::tests();
    tests.extend(forgotten::tests());
    run(tests)
}
