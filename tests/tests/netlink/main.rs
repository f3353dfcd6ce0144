//! When the kernel says no, or too much, or nothing: route changes refused, dumps interrupted,
//! notifications lost, tables full, and other people in our table. Whatever happens is shown and
//! counted, retried, and healed; no session is left behind.

mod hooks;

use std::process::ExitCode;

use dz_tests::harness::{Requirement, run};

/// What every test here needs.
const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];
const INTERVAL_MS: u32 = 100;

fn main() -> ExitCode {
    let tests = hooks::tests();
    run(tests)
}
