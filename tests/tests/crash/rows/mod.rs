//! Every row of the table in ARCHITECTURE.md, "The transaction, step by step": the state that a
//! crash leaves, made by hand on the maps and routes of a dead agent, and what the next start makes
//! of it. A test has the name of its row.

mod close;
mod connect;
mod stage;
mod stop;

use dz_tests::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = connect::tests();
    tests.extend(close::tests());
    tests.extend(stop::tests());
    tests
}
