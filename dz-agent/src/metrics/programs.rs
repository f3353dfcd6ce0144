//! Writes the families of our programs on interfaces: whether they are where they should be.

use std::fmt;

use super::write::{Out, counter, gauge};
use crate::view::{ProgramView, Snapshot};

/// Writes them. An interface to which nothing is attached has none.
pub(super) fn encode(out: Out<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    let each = |value: fn(&ProgramView) -> u64| {
        let interfaces = snapshot.interfaces.iter();
        interfaces.flat_map(move |interface| {
            interface.programs.iter().map(move |program| {
                let labels = [("iface", interface.name.as_str()), ("hook", program.hook)];
                (labels, value(program))
            })
        })
    };
    gauge(
        out,
        "doublezero_liveness_program_in_place",
        "Whether a program is at its hook of an interface, 1 or 0",
        each(|program| program.missing.is_none().into()),
    )?;
    gauge(
        out,
        "doublezero_liveness_programs_before",
        "Programs of others that run before ours at a hook",
        each(|program| program.before as u64),
    )?;
    counter(
        out,
        "doublezero_liveness_program_repairs",
        "How often a program was put back to its place",
        each(|program| program.mended),
    )
}
