//! Follow mode: the /32 routes that another daemon installs on the interface are peers, and stay
//! that daemon's, byte for byte.

mod appear;
mod scene;

use std::process::ExitCode;

use dz_tests::harness::{Requirement, run};

/// What every test here needs.
const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];

fn main() -> ExitCode {
    run(appear::tests())
}
