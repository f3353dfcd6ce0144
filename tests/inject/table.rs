//! Outcomes as a table: a call, its faults, and what became of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use dz_tests::injector::Fault;

use crate::case::{Outcome, Phase};
use crate::workers::Tried;

const BAD: &str = "**bad**";

fn name(result: &Result<Outcome, String>) -> &'static str {
    result.as_ref().map_or(BAD, |outcome| outcome.name())
}

/// Counts each outcome.
pub(crate) fn outcomes(tried: &[Tried]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (_, result) in tried {
        *counts.entry(name(result)).or_insert(0) += 1;
    }
    counts
}

/// Writes the page of docs about them: for each phase, kind of call and faults, how many calls ended in which way with each of them.
pub(crate) fn markdown(tried: &[Tried]) -> String {
    let mut text = "# System calls that fail\n\n\
        `cargo xtask inject --table docs/inject.md` has written this page: it makes one call of the agent fail, or kills the agent \
        after it, looks at what becomes of sessions, routes, programs, pins and other people's things, and starts the next \
        agent. A number says how many calls of a kind ended so with each of the faults.\n\n\
        - *refused*: one line and an exit code; nothing has changed.\n\
        - *went on*: the agent has run on, and all was right.\n\
        - *ended, next start right*: it has ended, or was killed; the next start found everything and no session has flapped.\n\
        - *not met*: the call did not come this time.\n"
        .to_owned();
    for phase in Phase::ALL {
        let of_phase = tried.iter().filter(|(case, _)| case.phase == phase);
        let mut rows: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
        for (case, result) in of_phase {
            let fault = match case.fault {
                Fault::Error(errno) => format!("{errno:?}"),
                Fault::Kill => "kill after".to_owned(),
            };
            let row = rows.entry((case.call.kind.clone(), fault)).or_default();
            *row.entry(name(result)).or_default() += 1;
        }
        if rows.is_empty() {
            continue;
        }
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n## {}\n\n| call | fault | outcome |\n|---|---|---|",
            phase.name()
        );
        // Faults of a kind that all ended in the same ways share a line.
        let mut lines: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((kind, fault), outcomes) in rows {
            let outcomes = outcomes.iter();
            let outcomes = outcomes.map(|(name, count)| format!("{name} {count}"));
            let outcomes = outcomes.collect::<Vec<_>>().join(", ");
            lines.entry((kind, outcomes)).or_default().push(fault);
        }
        for ((kind, outcomes), faults) in lines {
            let faults = faults.join(", ");
            let _ = writeln!(text, "| `{kind}` | {faults} | {outcomes} |");
        }
    }
    text
}
