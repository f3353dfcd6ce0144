//! What to say of a difference, and what of none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use dz_common::counters::{Counter, Kind};

use crate::hook::Hook;
use crate::model::{Arrival, Effect};

/// Expected and got, without the lines that are the same.
pub(crate) fn difference(arrival: &Arrival, expected: &Effect, got: &Effect) -> String {
    let mut text = format!(
        "{} on ifindex {}: {} bytes\nframe    {}\n",
        arrival.hook,
        arrival.ifindex,
        arrival.frame.len(),
        hex(&arrival.frame)
    );
    if expected.frame != got.frame {
        let _ = writeln!(text, "expected {}", hex(&expected.frame));
        let _ = writeln!(text, "got      {}", hex(&got.frame));
    }
    part(&mut text, "verdict", &expected.verdict, &got.verdict);
    let moved: BTreeSet<_> = expected.counted.keys().chain(got.counted.keys()).collect();
    for key in moved {
        let [expected, got] = [expected, got].map(|effect| effect.counted.get(key).unwrap_or(&0));
        let (block, name) = key;
        part(
            &mut text,
            &format!("{name} of block {block}"),
            expected,
            got,
        );
    }
    part(&mut text, "session", &expected.entry, &got.entry);
    part(&mut text, "deadline", &expected.deadline, &got.deadline);
    part(&mut text, "event", &expected.event, &got.event);
    text
}

/// The lines in which two values differ.
pub(crate) fn part<T: fmt::Debug>(text: &mut String, name: &str, expected: &T, got: &T) {
    let (expected, got) = (format!("{expected:#?}"), format!("{got:#?}"));
    if expected == got {
        return;
    }
    if expected.lines().count() != got.lines().count() {
        let _ = writeln!(text, "{name}:\nexpected {expected}\ngot {got}");
        return;
    }
    for (expected, got) in expected.lines().zip(got.lines()) {
        if expected != got {
            let (expected, got) = (expected.trim(), got.trim());
            let _ = writeln!(text, "{name}: expected {expected} got {got}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How many frames took each exit, by hook.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<&'static str, [u64; Hook::ALL.len()]>);

impl Tally {
    pub(crate) fn add(&mut self, hook: Hook, effect: &Effect) {
        for (_, name) in effect.counted.keys() {
            self.0.entry(name).or_default()[hook as usize] += 1;
        }
    }

    fn of(&self, counter: Counter, hook: Hook) -> u64 {
        self.0
            .get(counter.name())
            .map_or(0, |counts| counts[hook as usize])
    }

    /// What no frame was counted as although one could have been.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for &counter in Counter::ALL {
            for hook in Hook::ALL {
                if can(hook, counter) && self.of(counter, hook) == 0 {
                    missing.push(format!("{} at {hook}", counter.name()));
                }
            }
        }
        missing
    }
}

/// Whether a hook's frames, as they are made here, should lead to a counter.
fn can(hook: Hook, counter: Counter) -> bool {
    let by_receipt = match counter.kind() {
        // The rest belongs to other programs.
        Kind::Exit => (counter as u32) < Counter::TxOriginated as u32 || counter == Counter::Fault,
        Kind::Tally => !matches!(counter, Counter::EventLost | Counter::TimerFailed),
        Kind::Transition => {
            (counter as u32) < Counter::DownToAdminDown as u32
                && !matches!(
                    counter,
                    Counter::InitToDownTimeout | Counter::UpToDownTimeout
                )
        }
    };
    match (hook, counter) {
        (Hook::TcTagged, _) => counter == Counter::PassVlan,
        (Hook::TcLayer3NotHost, _) => counter == Counter::PassNotHost,
        // It takes a kernel without memory.
        (_, Counter::RxAnswerFailed) => false,
        (Hook::TcLayer3, Counter::PassVlan | Counter::PassNotHost) => false,
        // TC makes it one packet.
        (hook, Counter::RxLong) => hook == Hook::Xdp,
        // A layer-3 device has no neighbours.
        (Hook::TcLayer3, Counter::RxUnprovenNoNeighbour) => false,
        _ => by_receipt,
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:26}", "")?;
        for hook in Hook::ALL {
            write!(f, "{:>13}", hook.to_string())?;
        }
        for counter in Counter::ALL {
            let Some(counts) = self.0.get(counter.name()) else {
                continue;
            };
            write!(f, "\n{:26}", counter.name())?;
            for count in counts {
                write!(f, "{count:>13}")?;
            }
        }
        Ok(())
    }
}
