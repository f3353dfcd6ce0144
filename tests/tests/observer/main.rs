//! The observer: a thousand peers are connected and disconnected in random batches, and somebody
//! who shares nothing with the agent watches the pinned maps and the kernel's table.
//!
//! What is judged by order, never by how long something took:
//!
//! - **Routes**, by the kernel's own sequence of notifications. Requests and replies are marks in that
//!   sequence: once a disconnect has been answered there is no route to the peer, and none comes, were
//!   it for a microsecond, before the peer's next connect is sent.
//! - **Peers and sessions in the maps, routes in a dump**: no look that began after the answer
//!   and ended before the next connect was sent finds one.
//! - **Sessions that come back between two looks**: every insertion takes the next generation number, so
//!   as many numbers have been used as peers were connected, no more.
//! - **AdminDown is final**: a session that was seen so is never seen in another state.
//! - **No route without its session**: where look-ups just before and just after a dump both miss the
//!   session, and no connect of the peer was under way, the dump has no route.
//! - **No route that comes back during a disconnect**: after a look that found the peer's entry gone,
//!   at most one addition that was on its way already, and none after a deletion.
//!
//! What is not claimed: that a route is gone in the very moment in which its session goes Down or
//! AdminDown. It outlives that by the time of a netlink request, which `cargo xtask bench
//! transaction` measures; what stops packets meanwhile is the gate. At rest routes and Up sessions
//! are compared one by one.

mod history;
mod judge;
mod scene;
mod stir;
mod verdicts;
mod watch;

use std::process::ExitCode;

use dz_tests::harness::run;

fn main() -> ExitCode {
    let mut tests = verdicts::tests();
    tests.extend(stir::tests());
    run(tests)
}
