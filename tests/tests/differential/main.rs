//! The kernel programs against those in memory, over which the simulator runs the engine: frame by frame, and
//! by command and turn of our clock (`commands.rs`, `transmissions.rs`), and packet by packet that leaves
//! (`gate.rs`); and the maps (`maps.rs`).
//!
//! Every frame is run by `BPF_PROG_TEST_RUN` first; those in memory then get the time that the kernel
//! recorded in the session (`last_seen_ns`). Random numbers come from the session itself. So both
//! must agree in everything: verdict, frame, session, deadline, counters and event.
//!
//! `DZ_SEED=N` replays a run (the clock differs, what is generated does not), `DZ_COUNT=N` runs
//! more or fewer frames. What such a run cannot show, other tests do over real devices: packets
//! that are not linear, and those that are `CHECKSUM_PARTIAL`.

mod answer;
mod commands;
mod frames;
mod gate;
mod hook;
mod maps;
mod model;
mod programs;
mod report;
mod scenario;
mod setup;
mod states;
mod trampoline;
mod transmissions;

use dz_tests::harness::{Requirement, Test};

fn main() -> std::process::ExitCode {
    let needs = [
        Requirement::Root,
        Requirement::Tool("ip"),
        Requirement::Tool("ethtool"),
        Requirement::Kernel(6, 1),
    ];
    dz_tests::harness::run(vec![
        Test::new(
            "differential::kernel_and_host_agree",
            &needs,
            scenario::kernel_and_host_agree,
        ),
        Test::new(
            "differential::commands_agree",
            &needs,
            commands::commands_agree,
        ),
        Test::new(
            "differential::transmissions_agree",
            &needs,
            transmissions::transmissions_agree,
        ),
        Test::new("differential::gates_agree", &needs, gate::gates_agree),
        Test::new("differential::maps_agree", &needs, maps::maps_agree),
        Test::new("differential::events_agree", &needs, maps::events_agree),
    ])
}
