//! Killing the agent between any two steps leaves what the next start can go on from.
//!
//! `storm`: 50 rounds of random connects, disconnects, link, address and route changes with
//! `kill -9` at random moments, starts included. After each restart: the peers are those whose
//! connect was answered and whose disconnect was not; every peer has a session or is shown as
//! parked; the routes are those that mode and state want; what nobody touched has not flapped.
//! A request that the kill cut off was carried out or not, for each peer as a whole. `DZ_SEED=N`
//! begins with the round of that seed, which a failure names; the clock has its part in what happens.
//! The simulator kills after each single effect, in thousands of stories: these rounds are for what it
//! cannot have, a process that dies and a kernel that goes on.
//!
//! `rows`: each row of the state/step table in ARCHITECTURE.md, made by hand.

mod change;
mod check;
mod host;
mod model;
mod needs;
mod round;
mod rows;
mod world;

use std::process::ExitCode;

use dz_tests::harness::{Test, run};

use needs::NEEDS;

fn main() -> ExitCode {
    let storm = |number| {
        let name = format!("storm::{number}");
        Test::new(name, &NEEDS, move || round::rounds("crash", 25))
    };
    let mut tests = rows::tests();
    tests.extend((1..=2).map(storm));
    run(tests)
}
