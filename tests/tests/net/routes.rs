//! Our routes beside those of others.

mod fixture;
mod others;
mod ours;

use dz_tests::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = ours::tests();
    tests.extend(others::tests());
    tests
}
