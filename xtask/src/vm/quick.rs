//! What runs in a machine where time is short, as in CI: what depends on the kernel's version and on
//! the tunnel most.

/// Groups, and the part of their tests' names; empty for all of a group.
const QUICK: [(&str, &str); 8] = [
    ("net", "links::"),
    ("gre", ""),
    ("gate", ""),
    ("incident", ""),
    ("plain", "choice::"),
    ("spoofed", "::nobody"),
    ("interfaces", "unserved::"),
    ("bird", "follow::"),
];

/// The part of a group that runs; none if nothing of it does.
pub(super) fn part_of(group: &str) -> Option<&'static str> {
    let mut quick = QUICK.into_iter();
    quick.find(|(name, _)| *name == group).map(|(_, part)| part)
}
