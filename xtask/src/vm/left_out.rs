//! What does not run in a machine.

use std::process::Command;

use anyhow::ensure;

use crate::shell;
use crate::test_suite::programs::Program;

/// Tests that do not run in machines.
#[derive(Clone, Copy)]
pub(super) struct LeftOut {
    group: &'static str,
    /// The beginning of their names; empty for the whole group.
    pub(super) tests: &'static str,
    why: &'static str,
}

const fn left_out(group: &'static str, tests: &'static str, why: &'static str) -> LeftOut {
    LeftOut { group, tests, why }
}

/// All of them: an emulated processor would take minutes, or is too slow to tell, and nothing about them
/// depends on the version of the kernel or on the kind of interface.
const LEFT_OUT: [LeftOut; 13] = [
    left_out("sessions", "readings::", "promtool has 100 megabytes"),
    left_out("sessions", "batches::ten_thousand", "10,000 peers"),
    left_out("sessions", "many::", "100 peers"),
    left_out("crash", "storm::", "50 rounds"),
    left_out("observer", "", "1,000 peers"),
    left_out(
        "netlink",
        "full::events",
        "20,000 changes of a state, each logged",
    ),
    left_out(
        "netlink",
        "overrun::dumps_interrupted",
        "counts tries that the clock makes",
    ),
    left_out(
        "detection",
        "detection::an_idle_group_wakes_up",
        "counts microseconds of a processor",
    ),
    left_out("restart", "unnoticed::again_and_again", "ten takeovers"),
    left_out("memory", "net::more", "thousands of changes"),
    left_out("plain", "recreated::thousand_peers", "1,000 peers"),
    left_out("net", "routes::many_in_flight", "thousands of routes"),
    left_out(
        "plain",
        "moves::old_one_first",
        "a move takes longer than it may",
    ),
];

/// Whether none of its tests runs.
pub(super) fn is_whole(group: &str) -> bool {
    LEFT_OUT
        .iter()
        .any(|left_out| left_out.group == group && left_out.tests.is_empty())
}

/// What of a program does not run, printed with the reason.
///
/// # Errors
/// It has no such tests: the list is out of date.
pub(super) fn of(group: &str, test: &Program) -> anyhow::Result<Vec<LeftOut>> {
    let of_group = LEFT_OUT.iter().filter(|left_out| left_out.group == group);
    let of_group: Vec<_> = of_group.copied().collect();
    if of_group.is_empty() {
        return Ok(of_group);
    }
    let list = shell::read(Command::new(&test.executable).arg("--list"))?;
    for LeftOut { tests, why, .. } in &of_group {
        let any = list.lines().any(|name| name.starts_with(tests));
        ensure!(any, "{group} has no test {tests} that could be left out");
        println!("left out: {group} {tests}*: {why}");
    }
    Ok(of_group)
}
