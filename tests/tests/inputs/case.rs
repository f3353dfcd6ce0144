//! A table of inputs, each with what it must lead to.

use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use dz_common::counters::Counter;

use crate::bed::{Bed, PATIENCE};
use crate::watch::{Place, Snapshot, Touch, come_out, compare, observe};

/// Failures that are shown before a table is given up.
const MOST_FAILURES: usize = 3;

/// What becomes of a frame that is not answered.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It ends in the program.
    Dropped,
    /// The host's protocols get it as it was sent.
    Passed,
    /// The host's protocols get this instead: the kernel takes VLAN tags off.
    PassedAs(Vec<u8>),
}

/// One input.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    /// The counters that it moves, each by one.
    pub(crate) counters: Vec<(Place, Counter)>,
    pub(crate) touch: Touch,
    pub(crate) fate: Fate,
    /// A socket of the host that gets this payload.
    pub(crate) delivered: Option<(Arc<UdpSocket>, Vec<u8>)>,
}

impl Case {
    /// A frame for us that is dropped and leaves no trace but its counter.
    pub(crate) fn dropped(name: impl Into<String>, frame: Vec<u8>, exit: (Place, Counter)) -> Self {
        Self {
            name: name.into(),
            frame,
            counters: vec![exit],
            touch: Touch::Nothing,
            fate: Fate::Dropped,
            delivered: None,
        }
    }

    /// A frame that is none of our business.
    pub(crate) fn passed(name: impl Into<String>, frame: Vec<u8>, exit: Counter) -> Self {
        Self {
            fate: Fate::Passed,
            ..Self::dropped(name, frame, (Place::Shared, exit))
        }
    }

    /// It ends at a socket, with this payload.
    pub(crate) fn delivered(self, socket: &Arc<UdpSocket>, payload: &[u8]) -> Self {
        Self {
            delivered: Some((Arc::clone(socket), payload.to_vec())),
            ..self
        }
    }

    fn run(&self, bed: &Bed, before: &Snapshot) -> Result<Snapshot> {
        let seen = observe(bed, before, &self.frame, &self.counters)?;
        compare(before, &seen.after, self.touch)?;
        let expected: &[&[u8]] = match &self.fate {
            Fate::Dropped => &[],
            Fate::Passed => &[&self.frame],
            Fate::PassedAs(frame) => &[frame],
        };
        ensure!(
            seen.passed == expected,
            "the host got\n{:02x?}\n{expected:02x?} expected",
            seen.passed
        );
        ensure!(seen.came_out.is_empty(), "answered: {:02x?}", seen.came_out);
        if let Some((socket, payload)) = &self.delivered {
            let mut buffer = [0; 2048];
            socket.set_read_timeout(Some(PATIENCE))?;
            let len = socket.recv(&mut buffer).context("nothing at the socket")?;
            ensure!(
                buffer[..len] == *payload,
                "the socket got {:02x?}",
                &buffer[..len]
            );
        }
        Ok(seen.after)
    }
}

/// Runs a table; a failure names its case.
pub(crate) fn run(bed: &Bed, cases: &[Case]) -> Result<()> {
    each(
        bed,
        cases,
        |case| &case.name,
        |case, before| case.run(bed, before),
    )
}

/// Runs something over each of a table's cases, given what it looked like before.
pub(crate) fn each<T>(
    bed: &Bed,
    cases: &[T],
    name: impl Fn(&T) -> &str,
    mut run: impl FnMut(&T, &Snapshot) -> Result<Snapshot>,
) -> Result<()> {
    let mut before = Snapshot::take(bed)?;
    let mut failures = Vec::new();
    for case in cases {
        match run(case, &before) {
            Ok(after) => before = after,
            Err(error) => {
                failures.push(format!("{}: {error:#}", name(case)));
                if failures.len() == MOST_FAILURES {
                    break;
                }
                // What it left on its way is not the next one's.
                if let Err(error) = bed.sweep().and_then(|_| come_out(bed)) {
                    failures.push(format!("behind it: {error:#}"));
                    break;
                }
                before = Snapshot::take(bed)?;
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}
