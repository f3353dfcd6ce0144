//! Two ends that are alive and connected come Up, whatever has happened before: every state is
//! visited that they can get into.
//!
//! Bounds: at most two packets are under way in each direction, for less than two intervals and in
//! any order; three of them, and any third one, get lost; ends start anew, with their discriminator
//! or without, once or twice in all. Time passes in whole intervals, without jitter. From every state
//! that is reached so, everything is tried that can follow once nothing gets lost any more and packets
//! arrive within the interval: in whatever order things happen, both come Up.

mod end;
mod pair;
mod search;

use dz_common::deployed::Release;
use pair::{Pair, Rules};
use search::{FairWeather, Mishaps, reachable};

/// What was found of two ends.
#[derive(Default)]
struct Found {
    states: usize,
    /// Most intervals until both are Up, once nothing gets lost any more.
    intervals: u32,
    /// States that can come round for ever without both Up.
    round: Option<Vec<Pair>>,
}

fn explore(rules: Rules, mishaps: Mishaps) -> Found {
    let mut fair = FairWeather::default();
    let mut found = Found::default();
    reachable(rules, mishaps, |pair| {
        found.states += 1;
        if found.round.is_none() {
            match fair.until_up(rules, pair) {
                Ok(intervals) => found.intervals = found.intervals.max(intervals),
                Err(round) => found.round = Some(round),
            }
        }
        found.round.is_none()
    });
    println!(
        "{rules:?}, {mishaps:?}: {} states, {} more in fair weather, Up within {} intervals",
        found.states,
        fair.states(),
        found.intervals
    );
    found
}

/// Asserts that both always come Up, within so many intervals.
fn assert_come_up(rules: Rules, restarts: u8, intervals: u32) {
    let losses = 3;
    let found = explore(rules, Mishaps { restarts, losses });
    assert!(found.round.is_none(), "never Up: {:#?}", found.round);
    assert!(found.states > 100_000, "{} states", found.states);
    assert!(
        found.intervals <= intervals,
        "{} intervals",
        found.intervals
    );
}

/// With two restarts, too, as was seen once: four million states, more than a minute.
#[test]
fn two_of_ours_come_up_from_every_state() {
    assert_come_up([None, None], 1, 4);
}

#[test]
fn ours_and_a_deployed_peer_come_up_from_every_state() {
    assert_come_up([None, Some(Release::Since0_32)], 2, 6);
}

#[test]
fn ours_and_an_early_deployed_peer_come_up_from_every_state() {
    assert_come_up([None, Some(Release::Before0_32)], 2, 10);
}

/// What the rules of ours are for: two deployed clients may never accept each other again.
#[test]
fn two_deployed_ends_do_not_always_come_up() {
    for release in [Release::Since0_32, Release::Before0_32] {
        let (restarts, losses) = (1, 0);
        let found = explore([Some(release); 2], Mishaps { restarts, losses });
        let round = found.round.expect("a state that comes round");
        assert!(round.iter().all(|pair| !pair.is_up()));
    }
}
