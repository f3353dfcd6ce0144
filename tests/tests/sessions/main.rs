//! Sessions end to end: agents as processes, real devices, and what the kernel does meanwhile.

mod batches;
mod configured;
mod freeze;
mod handshake;
mod held;
mod many;
mod marks;
mod metrics;
mod moves;
mod needs;
mod purge;
mod queue;
mod rate;
mod readings;
mod realtime;
mod reload;
mod routes;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = rate::tests();
    tests.extend(freeze::tests());
    tests.extend(handshake::tests());
    tests.extend(routes::tests());
    tests.extend(many::tests());
    tests.extend(held::tests());
    tests.extend(batches::tests());
    tests.extend(configured::tests());
    tests.extend(reload::tests());
    tests.extend(purge::tests());
    tests.extend(moves::tests());
    tests.extend(readings::tests());
    tests.extend(realtime::tests());
    tests.extend(metrics::tests());
    tests.extend(marks::tests());
    tests.extend(queue::tests());
    run(tests)
}
