//! Plain IBRL: no allocated address. The local address is this host's public one, on its NIC; the
//! tunnel has nothing but the /31 of its link, whose far end is the gateway to every peer.

mod around;
mod choice;
mod follow;
mod moves;
mod recreated;
mod scene;
mod traffic;
mod two_tunnels;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = choice::tests();
    tests.extend(moves::tests());
    tests.extend(around::tests());
    tests.extend(follow::tests());
    tests.extend(recreated::tests());
    tests.extend(traffic::tests());
    tests.extend(two_tunnels::tests());
    run(tests)
}
