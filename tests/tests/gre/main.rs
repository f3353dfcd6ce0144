//! Two kernels with a GRE tunnel between them as production has it: `local` and `remote`, TTL 64,
//! MTU 1476, a /31 on the link, an allocated /32 beside it. What the underlay carries is captured
//! and judged field by field.

mod capture;
mod diverted;
mod incident;
mod queue;
mod scene;
mod sessions;
mod underlay;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = sessions::tests();
    tests.extend(underlay::tests());
    tests.extend(incident::tests());
    tests.extend(diverted::tests());
    tests.extend(queue::tests());
    run(tests)
}
