//! Packets in a peer's name that the peer has not sent: by somebody on the way who sees nothing of the
//! session, and by somebody on the peer's own host who sees everything and has no privilege. Neither
//! changes anything. A second peer, which nobody spoofs, goes through the same: what happens to it is
//! what happens without them.

mod blind;
mod events;
mod ghost;
mod nobody;
mod scene;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = events::tests();
    tests.extend(ghost::tests());
    tests.extend(nobody::tests());
    run(tests)
}
