//! Deadline groups against their races, in the real kernel: real timers, maps and memory.
//!
//! `dz-common/tests/detection.rs` tries every interleaving of the timer protocol; what it cannot
//! see is whether the kernel's timers, hash elements and array slots behave as the protocol takes
//! for granted. Frames are run by `BPF_PROG_TEST_RUN`, on interface 1 (`lo`), attached to nothing.
//!
//! How late a verdict is is printed, never asserted: that is the machine's business. That it comes,
//! and never before its deadline, is the program's. `DZ_SEED=N` draws the same numbers again.

mod alone;
mod bench;
mod deleted;
mod idle;
mod lost;
mod reuse;
mod torn;
mod verdicts;

use dz_tests::harness::{Requirement, Test};

fn main() -> std::process::ExitCode {
    let needs = [Requirement::Root, Requirement::Kernel(6, 1)];
    dz_tests::harness::run(vec![
        Test::new(
            "detection::no_deadline_is_lost",
            &needs,
            lost::no_deadline_is_lost,
        ),
        Test::new(
            "detection::an_idle_group_wakes_up",
            &needs,
            idle::an_idle_group_wakes_up,
        ),
        Test::new(
            "detection::reused_memory_is_clean",
            &needs,
            reuse::reused_memory_is_clean,
        ),
        Test::new(
            "detection::torn_keys_do_no_harm",
            &needs,
            torn::torn_keys_do_no_harm,
        ),
        Test::new(
            "detection::the_dead_do_not_spin",
            &needs,
            deleted::the_dead_do_not_spin,
        ),
        Test::new(
            "detection::user_space_may_sleep",
            &needs,
            alone::user_space_may_sleep,
        ),
    ])
}
