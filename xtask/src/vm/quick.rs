//! What runs in a machine where time is short, as in CI: what depends on the kernel's version and on
//! the tunnel most.

use super::kernel::Version;

/// A part of a group: its tests whose names contain `tests`, all of them if that is empty.
struct Part {
    group: &'static str,
    tests: &'static str,
    on: &'static [Version],
}

const fn part(group: &'static str, tests: &'static str) -> Part {
    let on = &Version::ALL;
    Part { group, tests, on }
}

/// The incident is in `gre`.
const QUICK: [Part; 8] = [
    part("net", "links::"),
    part("gre", ""),
    // Filters of clsact decide there; with TCX, it is as on this machine.
    Part {
        on: &[Version::V6_1],
        ..part("gate", "")
    },
    Part {
        on: &[Version::V6_1],
        ..part("found", "clsact")
    },
    part("plain", "choice::another_vrf"),
    part("spoofed", "::nobody"),
    part("interfaces", "unserved::"),
    part("bird", "gre::follow::"),
];

/// The part of a group that runs on a kernel; none if nothing of it does.
pub(super) fn part_of(group: &str, kernel: Version) -> Option<&'static str> {
    let mut parts = QUICK.iter();
    let part = parts.find(|part| part.group == group && part.on.contains(&kernel));
    part.map(|part| part.tests)
}
