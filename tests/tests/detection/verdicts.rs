//! What every session that fell silent must come to.

use std::time::Duration;

use anyhow::{Context, ensure};
use dz_common::map::{SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::DownReason;
use dz_tests::kernel::Kernel;
use dz_tests::wait::eventually;

/// After this, a deadline is lost, not late.
pub(crate) const LOST: Duration = Duration::from_secs(30);

/// Waits until every one of these sessions is Down by its deadline. `silent_ns`: nothing was
/// received after it.
pub(crate) fn all_expire(
    kernel: &Kernel,
    keys: &[SessionKey],
    silent_ns: u64,
) -> anyhow::Result<Lateness> {
    let mut lateness = Lateness::default();
    let mut ends = Vec::new();
    for key in keys {
        let what = format!("the detection of {:?}", key.peer);
        let entry = eventually(LOST, &what, || {
            let entry = kernel.session(key).ok().flatten().ok_or("no session")?;
            match entry.session.state {
                State::Down => Ok(entry),
                _ => Err("not Down"),
            }
        })?;
        lateness.0.push(in_time(&entry)?);
        told_soon(kernel, &entry)?;
        ends.push((deadline_ns(&entry), entry.session.since_ns));
    }
    ends.sort_unstable();
    // A scan at T expires everything due by T, and records T. Exact, for no receipt was under way.
    for pair in ends.windows(2) {
        let [(earlier_ns, first_ns), (later_ns, second_ns)] = [pair[0], pair[1]];
        ensure!(
            earlier_ns <= silent_ns || first_ns <= second_ns,
            "due at {earlier_ns}, expired at {first_ns}, but due at {later_ns}, expired at {second_ns}"
        );
    }
    Ok(lateness)
}

/// Whether our clock is to tell the peer as soon as may be, not when the last answer said.
fn told_soon(kernel: &Kernel, entry: &SessionEntry) -> anyhow::Result<()> {
    let hint = kernel.deadline(entry.slot)?.next_due;
    let expected = entry.due_stamp(false, true, entry.session.since_ns);
    ensure!(
        Some(hint) == expected,
        "the slot's hint is {hint}, not {expected:?}: {entry:#?}"
    );
    Ok(())
}

/// Whether a session that is Down went there for its deadline, and not before it; returns how long
/// after it, ns.
pub(crate) fn in_time(entry: &SessionEntry) -> anyhow::Result<u64> {
    ensure!(
        entry.session.down_reason == DownReason::Timeout,
        "down for another reason: {entry:#?}"
    );
    entry
        .session
        .since_ns
        .checked_sub(deadline_ns(entry))
        .with_context(|| format!("before its deadline: {entry:#?}"))
}

/// When a session that is Down was due.
fn deadline_ns(entry: &SessionEntry) -> u64 {
    entry.session.last_rx_ns + entry.session.detect_time_ns()
}

/// How long after the deadline, ns.
#[derive(Default)]
pub(crate) struct Lateness(pub(crate) Vec<u64>);

impl Lateness {
    /// Of a hundred, so many are at most so late.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = sorted.len().saturating_sub(1) * percent / 100;
        Duration::from_nanos(sorted.get(index).copied().unwrap_or(0))
    }
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.0.len();
        let (median, most, max) = (self.at(50), self.at(99), self.at(100));
        write!(
            f,
            "{count} expired, late by {median:?} median, {most:?} p99, {max:?} max"
        )
    }
}
