//! What a story comes to.

use std::cell::Cell;
use std::fmt;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// When, ns of the story.
    pub at_ns: u64,
    /// On which node.
    pub node: usize,
    /// Which promise is broken, and by what.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at_ns / 1_000_000;
        write!(f, "at {ms} ms, node {}: {}", self.node, self.what)
    }
}

/// What a story came to that went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps: something happened to a node.
    pub steps: u64,
    /// Packets that were delivered.
    pub packets: u64,
}

thread_local! {
    pub(super) static NOW: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// Says how far the story is that this thread tells, for its log: time, and whose turn it is.
#[must_use]
pub fn told() -> String {
    let (at_ns, node) = NOW.get();
    format!("{:>6} ms node {node}", at_ns / 1_000_000)
}
