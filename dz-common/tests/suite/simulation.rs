//! Two ends over a link, under a virtual clock.

use crate::link::{Link, Quality};
use crate::node::{Habit, Node};
use crate::support::{FAST, FAST_NS, MS, OURS, PEERS, Rng, START_NS, for_seeds};
use dz_common::deployed::Release;
use dz_common::packet::State;
use dz_common::session::{DownReason, Timers};

fn pair(habits: [Habit; 2], timers: Timers, quality: Quality, rng: &mut Rng) -> Link {
    let a = Node::new(timers, OURS, habits[0], START_NS, rng);
    let b = Node::new(timers, PEERS, habits[1], START_NS, rng);
    // Either clock may look first, at any time within an interval.
    let first = [START_NS + rng.below(FAST_NS), START_NS + rng.below(FAST_NS)];
    Link::new([a, b], quality, first, Rng::new(rng.next()))
}

fn both_up(link: &Link) -> bool {
    link.ends.iter().all(|end| end.state() == State::Up)
}

fn first_transmission(link: &Link) -> u64 {
    let first = |end: &Node| end.sent.first().map(|(at_ns, _)| *at_ns);
    link.ends.iter().filter_map(first).min().unwrap()
}

/// Two of ours, and ours with each kind of deployed peer.
const PAIRS: [[Habit; 2]; 3] = [
    [Habit::Answering; 2],
    [Habit::Answering, Habit::Deployed(Release::Since0_32)],
    [Habit::Answering, Habit::Deployed(Release::Before0_32)],
];

#[test]
fn a_cold_handshake_takes_two_round_trips_and_the_pacing_of_a_deployed_peer() {
    for habits in PAIRS {
        for_seeds(500, |rng| {
            let delay_ns = rng.below(FAST_NS * 3 / 4);
            let mut link = pair(habits, FAST, Quality::delay(delay_ns), rng);
            link.run_while(START_NS + 100 * FAST_NS, |link| !both_up(link));
            let took_ns = link.now_ns - first_transmission(&link);
            let pacing_ns = match habits[1] {
                // One packet per interval.
                Habit::Deployed(Release::Since0_32) => FAST_NS + MS,
                // The interval that it was in, and one with back-off.
                Habit::Deployed(Release::Before0_32) => FAST_NS / 10 * 33 + MS,
                _ => 0,
            };
            let bound_ns = 4 * delay_ns + pacing_ns;
            assert!(
                took_ns <= bound_ns,
                "{habits:?}: {took_ns} ns, delay {delay_ns}"
            );
        });
    }
}

/// One end has been alone so long that its own clock has backed off.
#[test]
fn a_handshake_with_an_end_that_has_backed_off_starts_with_the_newcomer() {
    for_seeds(200, |rng| {
        let delay_ns = rng.below(FAST_NS * 3 / 4);
        let mut link = pair([Habit::Answering; 2], FAST, Quality::delay(delay_ns), rng);
        link.cut = true;
        link.run_until(START_NS + 60_000 * MS);
        link.cut = false;
        let joined_ns = link.now_ns;
        link.ends[1] = Node::new(FAST, PEERS, Habit::Answering, joined_ns, rng);
        link.run_while(joined_ns + 200 * FAST_NS, |link| !both_up(link));
        // At most one interval until the newcomer's clock looks.
        let took_ns = link.now_ns - joined_ns;
        assert!(
            took_ns <= FAST_NS + 4 * delay_ns,
            "{took_ns} ns, delay {delay_ns}"
        );
    });
}

/// Packets per interval in each direction over 100 intervals, Up throughout.
fn steady_rates(habits: [Habit; 2], quality: Quality, rng: &mut Rng) -> [f64; 2] {
    let mut link = pair(habits, FAST, quality, rng);
    link.run_while(START_NS + 100 * FAST_NS, |link| !both_up(link));
    assert!(both_up(&link), "no handshake");
    let from_ns = link.now_ns + 2 * FAST_NS;
    link.run_until(from_ns + 100 * FAST_NS);
    assert!(
        link.ends
            .iter()
            .all(|end| end.up_since().is_some_and(|at| at < from_ns)),
        "flapped"
    );
    [0, 1].map(|end| link.ends[end].sent_between(from_ns, link.now_ns) as f64 / 100.0)
}

#[test]
fn each_direction_carries_about_one_packet_per_interval() {
    for habits in PAIRS {
        for_seeds(300, |rng| {
            let delay_ns = rng.below(FAST_NS / 20);
            let rates = steady_rates(habits, Quality::delay(delay_ns), rng);
            assert!(
                rates.iter().all(|rate| (0.85..=1.2).contains(rate)),
                "{habits:?} {rates:?}"
            );
        });
    }
}

#[test]
fn a_round_trip_of_most_of_an_interval_costs_at_most_four_thirds() {
    for habits in PAIRS {
        for_seeds(300, |rng| {
            let rates = steady_rates(habits, Quality::delay(FAST_NS * 4 / 10), rng);
            // One more for the window's edges.
            assert!(
                rates
                    .iter()
                    .all(|rate| (0.85..=4.0 / 3.0 + 0.01).contains(rate)),
                "{rates:?}"
            );
        });
    }
}

/// Whatever the delay: no storm, and no interval in which an end is silent.
#[test]
fn no_delay_makes_two_of_ours_exceed_four_thirds() {
    for_seeds(300, |rng| {
        let quality = Quality {
            delay_ns: rng.below(FAST_NS),
            jitter_ns: rng.below(FAST_NS / 2),
            loss: 0,
        };
        let rates = steady_rates([Habit::Answering; 2], quality, rng);
        assert!(
            rates
                .iter()
                .all(|rate| (0.85..=4.0 / 3.0 + 0.01).contains(rate)),
            "{rates:?}"
        );
    });
}

#[test]
fn a_cut_takes_both_ends_down_at_their_deadlines_and_they_come_back() {
    for_seeds(200, |rng| {
        let delay_ns = rng.below(FAST_NS / 2);
        let mut link = pair([Habit::Answering; 2], FAST, Quality::delay(delay_ns), rng);
        link.run_until(START_NS + 40 * FAST_NS);
        assert!(both_up(&link));
        link.cut = true;
        let cut_ns = link.now_ns;
        link.run_until(cut_ns + delay_ns + 3 * FAST_NS);
        for end in &link.ends {
            let (at_ns, last) = end.changes.last().unwrap();
            assert_eq!((last.to, last.reason), (State::Down, DownReason::Timeout));
            assert!(*at_ns >= cut_ns, "before the cut");
        }
        link.run_until(cut_ns + rng.below(20_000) * MS);
        link.cut = false;
        let healed_ns = link.now_ns;
        // As slow as the back-off's cap plus its jitter, not slower.
        link.run_while(healed_ns + 10_000 * MS, |link| !both_up(link));
        let took_ns = link.now_ns - healed_ns;
        assert!(took_ns <= 5_500 * MS + 4 * delay_ns, "{} ms", took_ns / MS);
    });
}

/// Where one end hears nothing any more, the other one hears so at once, and from whom: the Down echoes
/// it although nothing is proven any more.
#[test]
fn the_end_that_is_still_heard_takes_the_other_down() {
    for habits in PAIRS {
        for_seeds(100, |rng| {
            let delay_ns = rng.below(FAST_NS / 2);
            let mut link = pair(habits, FAST, Quality::delay(delay_ns), rng);
            link.run_until(START_NS + 40 * FAST_NS);
            assert!(both_up(&link));
            link.deaf = true;
            link.run_while(link.now_ns + 5 * FAST_NS, |link| {
                link.ends[0].state() == State::Up
            });
            let went_ns = link.now_ns;
            link.run_until(went_ns + delay_ns + 1);
            let (_, first) = link.ends[0].changes.last().unwrap();
            let (_, second) = link.ends[1].changes.last().unwrap();
            assert_eq!((first.to, first.reason), (State::Down, DownReason::Timeout));
            assert_eq!(
                (second.to, second.reason),
                (State::Down, DownReason::RemoteDown)
            );
        });
    }
}

/// Losing every twentieth packet may flap a session, but never livelocks it or starts a storm.
#[test]
fn loss_neither_livelocks_nor_storms() {
    for_seeds(100, |rng| {
        let quality = Quality {
            delay_ns: rng.below(FAST_NS / 2),
            jitter_ns: rng.below(FAST_NS / 5),
            loss: 5,
        };
        let mut link = pair([Habit::Answering; 2], FAST, quality, rng);
        let intervals = 2_000;
        let mut up = 0;
        for i in 1..=intervals {
            link.run_until(START_NS + i * FAST_NS);
            up += u64::from(both_up(&link));
        }
        assert!(
            up * 100 >= intervals * 95,
            "up in {up} of {intervals} intervals"
        );
        for end in &link.ends {
            let most = intervals * 4 / 3 + 5 * end.changes.len() as u64 + 5;
            assert!((end.sent.len() as u64) <= most, "{} sent", end.sent.len());
            assert!(end.most_sent_within(FAST_NS) <= 3);
        }
    });
}

/// The kernel part answers while the agent stands still: the peer must not notice.
#[test]
fn a_frozen_end_stays_up_by_answering() {
    for habits in PAIRS {
        for_seeds(100, |rng| {
            let delay_ns = rng.below(FAST_NS / 2);
            let mut link = pair(habits, FAST, Quality::delay(delay_ns), rng);
            link.run_until(START_NS + 20 * FAST_NS);
            assert!(both_up(&link));
            let changes = link.ends.each_ref().map(|end| end.changes.len());
            link.ends[0].habit = Habit::Frozen;
            link.run_until(link.now_ns + 100 * FAST_NS);
            assert_eq!(
                link.ends.each_ref().map(|end| end.changes.len()),
                changes,
                "{habits:?}"
            );
        });
    }
}

/// Both frozen: nobody's clock runs, so the answers have to die out and the deadlines to pass.
#[test]
fn two_frozen_ends_do_not_keep_each_other_up_for_ever() {
    for_seeds(50, |rng| {
        let mut link = pair([Habit::Answering; 2], FAST, Quality::delay(MS), rng);
        link.run_until(START_NS + 20 * FAST_NS);
        assert!(both_up(&link));
        link.ends
            .iter_mut()
            .for_each(|end| end.habit = Habit::Frozen);
        link.run_until(link.now_ns + 10 * FAST_NS);
        assert!(link.ends.iter().all(|end| end.state() == State::Down));
    });
}

#[test]
fn an_end_put_in_admin_down_takes_the_other_down_at_once() {
    for_seeds(100, |rng| {
        let delay_ns = rng.below(FAST_NS / 2);
        let mut link = pair([Habit::Answering; 2], FAST, Quality::delay(delay_ns), rng);
        link.run_until(START_NS + 20 * FAST_NS + rng.below(FAST_NS));
        assert!(both_up(&link));
        let at_ns = link.now_ns;
        link.ends[0].entry.admin_down(at_ns);
        link.run_until(at_ns + FAST_NS + delay_ns);
        let (_, last) = link.ends[1].changes.last().unwrap();
        assert_eq!(last.reason, DownReason::RemoteAdmin);
        let sent = link.ends[0]
            .sent
            .iter()
            .filter(|sent| sent.1 == State::AdminDown)
            .count();
        assert_eq!(sent, 1, "announced once");
    });
}
