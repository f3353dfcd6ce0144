//! How often a session transmits, whatever the peer does.

use crate::node::{Habit, Node};
use crate::support::{FAST, FAST_NS, MS, OURS, Rng, START_NS, for_seeds, packet, session_in};
use dz_common::pacing::{
    BURST, Tick, ahead_ns, due_now_stamp, due_stamp, fallback_ns, jittered_ns, scheduled_ns,
};
use dz_common::packet::{Packet, State};
use dz_common::session::{NS_PER_US, Session, Timers};

/// Any packet a peer could send to move our state.
fn any_packet(rng: &mut Rng) -> Packet {
    packet(rng.pick(&State::ALL), rng.pick(&[0, OURS, OURS]))
}

/// Runs the node's clock, as its agent does, up to `until_ns`.
fn run_clock(node: &mut Node, due_ns: &mut u64, until_ns: u64) {
    while *due_ns <= until_ns {
        *due_ns = node.tick(*due_ns).1;
    }
}

#[test]
fn state_flips_inside_one_interval_cause_at_most_three_transmissions() {
    for_seeds(2_000, |rng| {
        let mut node = Node::new(FAST, OURS, Habit::Answering, START_NS, rng);
        let mut due_ns = START_NS;
        // Some history, calm or not, so that the flood meets every phase.
        let mut now_ns = START_NS;
        for _ in 0..rng.below(30) {
            now_ns += rng.below(FAST_NS * 3 / 2);
            run_clock(&mut node, &mut due_ns, now_ns);
            let calm = packet(State::Up, OURS);
            let next = if rng.chance(80) {
                calm
            } else {
                any_packet(rng)
            };
            node.receive(&next, now_ns);
        }
        let mut at: Vec<u64> = (0..500)
            .map(|_| now_ns + 1 + rng.below(FAST_NS - 1))
            .collect();
        at.sort_unstable();
        let before = node.changes.len();
        // Alternating between a goodbye and a greeting changes the state every time.
        let greeting = if rng.chance(50) {
            State::Down
        } else {
            State::Init
        };
        for (i, &at_ns) in at.iter().enumerate() {
            run_clock(&mut node, &mut due_ns, at_ns);
            let state = if i % 2 == 0 {
                State::AdminDown
            } else {
                greeting
            };
            node.receive(&packet(state, OURS), at_ns);
            if rng.chance(20) {
                due_ns = node.tick(at_ns).1; // events wake the agent, whose clock then looks
            }
        }
        run_clock(&mut node, &mut due_ns, now_ns + FAST_NS);
        assert!(node.changes.len() - before >= 499, "the flood flips");
        let sent = node.sent_between(now_ns + 1, now_ns + 1 + FAST_NS);
        assert!(sent <= 3, "{sent} transmissions");
        assert!(
            node.most_sent_within(FAST_NS) <= 3,
            "in some other interval"
        );
    });
}

#[test]
fn a_machine_that_has_just_started_tells_its_states_at_once() {
    for_seeds(200, |rng| {
        let mut node = Node::new(FAST, OURS, Habit::Answering, MS, rng);
        let (first, _) = node.tick(MS);
        assert!(first.is_some(), "the first packet");
        let answer = node.receive(&packet(State::Init, OURS), 2 * MS);
        assert_eq!(answer.map(|answer| answer.state), Some(State::Up));
    });
}

#[test]
fn a_peer_that_never_stops_flipping_gets_no_more_than_the_steady_rate() {
    for_seeds(50, |rng| {
        let mut node = Node::new(FAST, OURS, Habit::Answering, START_NS, rng);
        let mut due_ns = START_NS;
        let intervals = 100;
        for i in 0..intervals * 50 {
            let at_ns = START_NS + i * MS + rng.below(MS);
            run_clock(&mut node, &mut due_ns, at_ns);
            let state = if i % 2 == 0 {
                State::Down
            } else {
                State::AdminDown
            };
            node.receive(&packet(state, OURS), at_ns);
        }
        // The burst comes once.
        let most = intervals * 4 / 3 + u64::from(BURST) + 1;
        assert!(
            node.sent.len() as u64 <= most,
            "{} transmissions",
            node.sent.len()
        );
    });
}

/// The allowance comes back with calm, so that the next real change is told at once.
#[test]
fn a_change_is_told_at_once_again_after_three_calm_transmissions() {
    let flip = |node: &mut Node, now_ns| {
        node.receive(&packet(State::AdminDown, OURS), now_ns);
        let told = node.sent.len();
        node.receive(&packet(State::Init, OURS), now_ns);
        node.sent.len() > told
    };
    for_seeds(200, |rng| {
        let mut node = Node::new(FAST, OURS, Habit::Answering, START_NS, rng);
        let mut now_ns = START_NS;
        for _ in 0..10 * 50 {
            now_ns += MS;
            flip(&mut node, now_ns);
        }
        assert!(!flip(&mut node, now_ns), "the allowance is used up");
        let mut due_ns = now_ns;
        let calm = node.sent.len() + 4; // the first still tells the last flip
        while node.sent.len() < calm {
            now_ns += FAST_NS / 10;
            run_clock(&mut node, &mut due_ns, now_ns);
            node.receive(&packet(State::Up, OURS), now_ns);
        }
        assert!(
            now_ns < node.sent[calm - 1].0 + FAST_NS / 2,
            "pacing alone would hold it back"
        );
        assert!(flip(&mut node, now_ns), "not told at once");
    });
}

/// "Never later than now + its tx interval", and never in the past, where the clock would spin.
#[test]
fn the_clock_is_asked_back_within_one_interval_in_every_state() {
    for state in State::ALL {
        let mut session = session_in(state, START_NS);
        let mut now_ns = START_NS;
        for _ in 0..40 {
            let (_, next_ns) = session.tick(now_ns, 0xffff_ffff);
            assert!(
                next_ns > now_ns,
                "{state:?}: {now_ns} asks back at {next_ns}"
            );
            assert!(next_ns <= now_ns + FAST_NS, "{state:?}");
            now_ns = next_ns;
        }
    }
}

#[test]
fn admin_down_is_announced_and_not_repeated() {
    let mut session = session_in(State::Up, START_NS);
    session.tick(START_NS, 0);
    session.admin_down(START_NS + FAST_NS);
    let sent = (0..10_000)
        .filter(|i| session.tick(START_NS + FAST_NS + i * MS, 0).0 == Tick::Send)
        .count();
    assert_eq!(sent, 1);
}

/// A stale deadline must not silence a session ("recovery as slow as the back-off").
#[test]
fn neither_backoff_nor_a_longer_interval_of_before_silences_a_session() {
    // Down with the longest back-off, then brought Up by a receipt that was not answered.
    let mut session = Session::new(FAST, OURS, START_NS);
    let mut now_ns = START_NS;
    for _ in 0..12 {
        session.transmitted(now_ns, 0xffff_ffff);
        now_ns = session.next_tx_ns;
    }
    now_ns = session.last_tx_ns + MS;
    assert!(session.next_tx_ns > now_ns + 4_000 * MS, "backed off");
    session.receive(&packet(State::Init, OURS), now_ns);
    let (_, next_ns) = session.tick(now_ns, 0);
    assert!(next_ns <= now_ns + FAST_NS);
    let told = session.tick(next_ns, 0).0 == Tick::Send || session.last_tx_ns == now_ns;
    assert!(told, "Up is told within one interval");

    // Up at the peer's wish for 3 s; then it wishes for 50 ms.
    let mut slow = packet(State::Up, OURS);
    slow.required_min_rx_us = 3_000_000;
    session.receive(&slow, next_ns);
    session.transmitted(next_ns, 0xffff_ffff);
    assert!(session.next_tx_ns > next_ns + 3_000 * MS);
    session.receive(&packet(State::Up, OURS), next_ns + MS);
    let mut at_ns = next_ns + MS;
    while session.last_tx_ns == next_ns {
        assert!(
            at_ns <= next_ns + FAST_NS * 6 / 5,
            "silent for {} ms",
            (at_ns - next_ns) / MS
        );
        at_ns = session.tick(at_ns, 0).1;
    }
}

/// The burst is for news; what is no news keeps ¾ of an interval of distance.
#[test]
fn an_answer_that_tells_nothing_new_waits_for_three_quarters_of_an_interval() {
    let mut session = session_in(State::Up, START_NS);
    session.transmitted(START_NS, 0);
    for (after_ns, answered) in [
        (1, false),
        (FAST_NS * 3 / 4 - 1, false),
        (FAST_NS * 3 / 4, true),
        (FAST_NS, true),
    ] {
        let mut session = session;
        let answer = session.answer(false, START_NS + after_ns);
        assert_eq!(
            answer == dz_common::pacing::Answer::Send,
            answered,
            "{after_ns} ns later"
        );
        if answered {
            // Our clock is the fallback from now on.
            let fallback_ns = fallback_ns(
                START_NS + after_ns,
                FAST.desired_min_tx_us,
                FAST.detect_mult,
            );
            assert_eq!(session.next_tx_ns, fallback_ns, "{after_ns} ns later");
        }
    }
}

#[test]
fn jitter_spans_its_whole_range_and_no_more() {
    for mult in [1, 2, 3, 255] {
        let (low, high) = if mult == 1 { (75, 90) } else { (90, 110) };
        for interval_us in [1, 50_000, 300_000, 3_000_000, u32::MAX] {
            let base_ns = u64::from(interval_us) * NS_PER_US;
            let at = |random| jittered_ns(interval_us, mult, random);
            assert_eq!(
                at(0),
                base_ns - base_ns / 100 * (100 - low),
                "{interval_us} {mult}"
            );
            for random in (0..=u32::MAX).step_by(1 << 22).chain([u32::MAX]) {
                assert!((base_ns * low / 100..=base_ns * high / 100 + 1).contains(&at(random)));
            }
            let reach_ns = base_ns * high / 100 - at(u32::MAX);
            assert!(
                reach_ns <= base_ns / 10_000 + 1,
                "{reach_ns} ns short of the top"
            );
        }
    }
}

#[test]
fn transmissions_gather_on_a_grid_within_the_bounds_of_jitter() {
    for_seeds(10_000, |rng| {
        let mult = rng.pick(&[1, 2, 3, 255]);
        let (low, high) = if mult == 1 { (75, 90) } else { (90, 110) };
        let interval_us = rng.pick(&[1, 999, 50_000, 300_000, 1_000_000, 3_000_000, u32::MAX]);
        let base_ns = u64::from(interval_us) * NS_PER_US;
        let now_ns = START_NS + rng.below(1 << 40);
        let bounds = base_ns * low / 100..=base_ns * high / 100 + 1;
        let at_ns = scheduled_ns(now_ns, interval_us, mult, rng.below(1 << 32) as u32);
        let after_ns = at_ns - now_ns;
        assert!(
            bounds.contains(&after_ns),
            "{interval_us} us × {mult}: {after_ns} ns"
        );
        let grid_ns = (base_ns / 32).clamp(1, 1 << 23);
        assert!(
            at_ns.trailing_zeros() >= grid_ns.ilog2(),
            "{at_ns} ns is on no grid of {grid_ns} ns"
        );

        let at_ns = fallback_ns(now_ns, interval_us, mult);
        let after_ns = at_ns - now_ns;
        assert!(
            bounds.contains(&after_ns),
            "answered, {interval_us} us × {mult}: {after_ns} ns"
        );
        let grid_ns = base_ns * (high - low) / 100;
        assert!(
            at_ns.is_multiple_of(grid_ns),
            "{at_ns} ns is on no grid of {grid_ns} ns"
        );
    });
}

/// With *our* cap above the transmit interval it only ever lengthens it.
#[test]
fn backoff_never_transmits_faster_than_the_interval() {
    let timers = Timers {
        backoff_cap_us: 10_000,
        ..FAST
    };
    let mut session = Session::new(timers, OURS, START_NS);
    for _ in 0..5 {
        assert!(session.transmitted(START_NS, 0) >= 50_000);
    }
}

/// What the kernel leaves of an instant for the agent's clock: never early, later by a microsecond at
/// most, and never ahead once it has passed, wherever the counter comes round.
#[test]
fn stamps_tell_what_is_ahead() {
    for_seeds(100_000, |rng| {
        let now_ns = if rng.chance(50) {
            (rng.below(1 << 20) << 42).saturating_add(rng.below(1 << 12))
        } else {
            rng.below(1 << 60)
        };
        let at_ns = now_ns + 1 + rng.below(5_000_000_000 - 2_048);
        let told_ns = ahead_ns(due_stamp(at_ns), now_ns).expect("ahead");
        assert!(
            at_ns <= told_ns && told_ns < at_ns + 1_024,
            "{at_ns} {told_ns}"
        );
        assert_eq!(ahead_ns(due_stamp(now_ns), now_ns + 1_023), None);
        assert_eq!(ahead_ns(due_now_stamp(now_ns), now_ns), None);
        let passed_ns = now_ns.saturating_sub(rng.below(4_000_000_000_000));
        assert_eq!(ahead_ns(due_stamp(passed_ns), now_ns + 1_023), None);
        let far_ns = now_ns + 5_000_003_000 + rng.below(4_000_000_000_000);
        assert_eq!(ahead_ns(due_stamp(far_ns), now_ns), None);
    });
}
