//! Users of the same host without any rights: what they take, hold, flood or ask for changes nothing.

mod locks;
mod scrapers;

use std::process::ExitCode;

use dz_tests::harness::{Requirement, run};

const NEEDS: [Requirement; 3] = [
    Requirement::Root,
    Requirement::Tun,
    Requirement::LinkKind("veth"),
];

fn main() -> ExitCode {
    let mut tests = locks::tests();
    tests.extend(scrapers::tests());
    run(tests)
}
