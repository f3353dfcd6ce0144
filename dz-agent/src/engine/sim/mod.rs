//! The simulator: several machines in memory, each with the real engine, over links that do what links
//! do, while things happen to them. A seed is a story; the same seed is the same story, step by step.
//!
//! | part | is |
//! |---|---|
//! | [`machine`] | the kernel of one node: its interfaces and addresses, and what comes and goes there |
//! | [`agent`] | one agent process: the engine, given its turns as the loop gives them |
//! | [`wire`] | what carries packets: delay, loss, doubling, disorder, partitions |
//! | [`story`] | what happens, drawn from the seed, and how a story that fails is made shorter |
//! | [`world`] | all of it, step by step |
//! | [`check`] | what must hold after every step, and once everything is well again |

mod agent;
mod check;
mod machine;
mod story;
mod wire;
mod world;

pub use story::Story;

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Steps: something happened to a node.
    pub steps: u64,
    /// Packets that were delivered.
    pub packets: u64,
}

thread_local! {
    static NOW: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// Says how far the story is that this thread tells, for its log: time, and whose turn it is.
#[must_use]
pub fn told() -> String {
    let (at_ns, node) = NOW.get();
    format!("{:>6} ms node {node}", at_ns / 1_000_000)
}

/// Tells a story.
///
/// # Errors
/// What was found, if a promise is broken.
pub fn tell(story: &Story) -> Result<Report, Finding> {
    world::World::new(story).run(story)
}

/// Makes a story that fails shorter, as long as it fails: events are left out, half of them at a time,
/// then one by one.
#[must_use]
pub fn shrink(story: &Story) -> Story {
    let mut shortest = story.clone();
    let mut part = shortest.events.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < shortest.events.len() {
            let mut shorter = shortest.clone();
            let to = (from + part).min(shorter.events.len());
            shorter.events.drain(from..to);
            if tell(&shorter).is_err() {
                shortest = shorter;
            } else {
                from += part;
            }
        }
        part /= 2;
    }
    shortest
}
