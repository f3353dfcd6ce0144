//! Telling a story, and making one that fails shorter.

use super::finding::{Finding, Report};
use super::story::Story;
use super::world::World;
use crate::hash;

/// Tells a story.
///
/// # Errors
/// What was found, if a promise is broken.
pub fn tell(story: &Story) -> Result<Report, Finding> {
    hash::seed(story.seed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_that_is_told_again_is_the_same() {
        let tell = |seed| tell(&Story::drawn(seed, 3));
        let first: Vec<_> = (1..=20).map(tell).collect();
        let again: Vec<_> = (1..=20).rev().map(tell).collect();
        assert!(first.iter().eq(again.iter().rev()), "{first:?}\n{again:?}");
    }
}
