//! What others do to our programs, links, pins and interfaces, while the agent runs and between two runs: it is found
//! by asking the kernel, said, and put right.

mod between;
mod clsact;
mod elsewhere;
mod failing;
mod meanwhile;
mod scene;
mod values;
mod xdp;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = meanwhile::tests();
    tests.extend(between::tests());
    tests.extend(elsewhere::tests());
    tests.extend(xdp::tests());
    tests.extend(clsact::tests());
    tests.extend(failing::tests());
    tests.extend(values::tests());
    run(tests)
}
