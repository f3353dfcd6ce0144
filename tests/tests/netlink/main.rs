//! When the kernel says no, or too much, or nothing: route changes refused, dumps interrupted,
//! notifications lost, tables full, and other people in our table. Whatever happens is shown and
//! counted, retried, and healed; no session is left behind, and nobody waits for an answer in vain.

mod conflict;
mod full;
mod gone;
mod hooks;
mod maps;
mod overrun;
mod refused;
mod repair;
mod scene;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = hooks::tests();
    tests.extend(refused::tests());
    tests.extend(conflict::tests());
    tests.extend(repair::tests());
    tests.extend(overrun::tests());
    tests.extend(full::tests());
    tests.extend(maps::tests());
    tests.extend(gone::tests());
    run(tests)
}
