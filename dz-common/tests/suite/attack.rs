//! An attacker who sees nothing of a session changes nothing of it.
//!
//! He sends to our ends, up to 1,000 packets a second of any kind, and knows everything but the two
//! discriminators of the session. Each scenario is run with him and without. No session is Up, kept
//! Up, passive, slower, Down earlier or kept Down that is not without him, with the exceptions that
//! [`verdict::Promise`] names and bounds. The property fails without any clause of the rules.

mod attacker;
mod clause;
mod end;
mod scenario;
mod verdict;
mod world;

use std::cell::Cell;

use crate::support::{MS, for_seeds};
use attacker::Attacker;
use clause::Clause;
use dz_common::packet::State;
use dz_common::session::Timers;
use scenario::{Story, setting};
use verdict::{Pair, Promise};
use world::{Peer, World};

/// Runs one scenario twice. Returns how many packets the attacker has sent, and what he must not
/// have changed.
fn attacked(
    (peer, story): (Peer, Story),
    seed: u64,
    taken_out: Option<Clause>,
) -> (u64, Option<String>) {
    let attacker = Attacker::new(seed);
    let promise = Promise::of(story, peer, &attacker);
    let (mut setting, at_ns) = setting(story, peer, seed);
    // Where the two runs may part, they would not send into the same weather.
    setting.storms &= promise == Promise::Same;
    let (without, _) = World::new(&setting, taken_out, None).run();
    let (with, attacks) = World::new(&setting, taken_out, Some(attacker)).run();
    let pair = Pair {
        setting: &setting,
        at_ns,
        without: &without,
        with: &with,
    };
    let violation = pair.violation(promise);
    (
        attacks,
        violation.map(|what| format!("{peer:?} {story:?} seed {seed} {promise:?}: {what}")),
    )
}

fn all_stories() -> impl Iterator<Item = (Peer, Story)> {
    Peer::ALL
        .into_iter()
        .flat_map(|peer| Story::ALL.map(|story| (peer, story)))
}

#[test]
fn who_sees_nothing_changes_nothing() {
    let attacks = Cell::new(0);
    for_seeds(25, |rng| {
        let seed = rng.next();
        for which in all_stories() {
            let (sent, violation) = attacked(which, seed, None);
            assert_eq!(violation, None);
            attacks.set(attacks.get() + sent);
        }
    });
    println!("{} packets of attackers", attacks.get());
    if std::env::var_os("DZ_SEED").is_none() {
        assert!(attacks.get() >= 10_000_000, "{} packets", attacks.get());
    }
}

/// Each clause is there for a reason: taken out, one at a time, it is missed where the property holds
/// with it.
#[test]
fn the_property_fails_with_any_clause_taken_out() {
    let without = |clause, seed, which| {
        let violation = attacked(which, seed, Some(clause)).1?;
        assert_eq!(attacked(which, seed, None).1, None);
        Some(violation)
    };
    for clause in Clause::ALL {
        let violation = (0..50)
            .find_map(|seed| all_stories().find_map(|which| without(clause, seed, which)))
            .unwrap_or_else(|| panic!("{clause:?} is not missed"));
        println!("without {clause:?}: {violation}");
    }
}

/// Milliseconds from what happens until both ends are Up for good, at 1 s × 3: median and most.
fn until_both_up(story: Story, peer: Peer, attack: bool) -> [u64; 2] {
    let took = |seed| {
        let (mut setting, at_ns) = setting(story, peer, seed);
        setting.storms = false;
        for timers in &mut setting.timers {
            timers.detect_mult = Timers::DEFAULT.detect_mult;
            timers.desired_min_tx_us = Timers::DEFAULT.desired_min_tx_us;
            timers.required_min_rx_us = Timers::DEFAULT.required_min_rx_us;
        }
        let attacker = attack.then(|| Attacker::of_every_kind(seed));
        let (logs, _) = World::new(&setting, None, attacker).run();
        let up_ns = logs.iter().map(|log| match log.changes.last() {
            Some((at_ns, State::Up, _)) => *at_ns,
            other => panic!("{story:?} {peer:?} seed {seed}: {other:?}"),
        });
        up_ns.max().unwrap_or(0).saturating_sub(at_ns) / MS
    };
    let mut took: Vec<u64> = (0..41).map(took).collect();
    took.sort_unstable();
    [took[took.len() / 2], took[took.len() - 1]]
}

/// How long it takes to be Up again, alone and under a thousand blind packets of every kind a
/// second. The bounds are about twice of what is seen.
#[test]
fn restarts_take_seconds_even_under_attack() {
    let [_, since, before] = Peer::ALL;
    for (story, peer, most_alone_ms, most_attacked_ms) in [
        (Story::OursRestarts, Peer::Ours, 250, 250),
        (Story::PeerRestarts, Peer::Ours, 250, 250),
        (Story::OursRestarts, since, 4_000, 4_000),
        (Story::OursRestarts, before, 4_000, 4_000),
        (Story::PeerForgets, since, 4_000, 15_000),
        (Story::PeerForgets, before, 4_000, 20_000),
        // The other end clings to our earlier discriminator: after the attack only, see Promise.
        (Story::OursForgets, Peer::Ours, 250, u64::MAX),
        (Story::OursForgets, since, 6_000, u64::MAX),
        (Story::OursForgets, before, 6_000, u64::MAX),
    ] {
        let (alone, attacked) = (
            until_both_up(story, peer, false),
            until_both_up(story, peer, true),
        );
        println!("{story:?} {peer:?}: {alone:?} ms (median, most), attacked {attacked:?} ms");
        assert!(alone[1] <= most_alone_ms, "{story:?} {peer:?}: {alone:?}");
        assert!(
            attacked[1] <= most_attacked_ms,
            "{story:?} {peer:?}: {attacked:?}"
        );
    }
}
