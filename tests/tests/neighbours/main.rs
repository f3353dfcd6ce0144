//! Users of the same host without any rights: what they take, hold, flood or ask for changes nothing.

mod flipper;
mod locks;
mod needs;
mod scrapers;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = locks::tests();
    tests.extend(scrapers::tests());
    tests.extend(flipper::tests());
    run(tests)
}
