//! Telling a story, and making one that fails shorter.

use super::finding::{Finding, Report};
use super::story::Story;
use super::world::World;

/// Tells a story.
///
/// # Errors
/// What was found, if a promise is broken.
pub fn tell(story: &Story) -> Result<Report, Finding> {
    World::new(story).run(story)
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
