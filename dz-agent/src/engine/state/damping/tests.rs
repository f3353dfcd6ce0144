use dz_common::entry::tells_of_packets;

use super::super::recent::WINDOW_NS;
use super::*;
use crate::fixture::{self, NOW_NS};

const MS: u64 = 1_000_000;

fn key() -> SessionKey {
    fixture::entry([10, 0, 0, 2]).key
}

/// A session, as its map has it.
struct Peer {
    entry: SessionEntry,
    now_ns: u64,
}

impl Peer {
    fn new() -> Self {
        let mut entry = fixture::up([10, 0, 0, 2]);
        (entry.session.since_ns, entry.session.ups) = (NOW_NS, 1);
        Self {
            entry,
            now_ns: NOW_NS,
        }
    }

    /// Its state changes after a pause; the agent is told unless it wants none of it. Returns whether the session was
    /// reviewed.
    fn goes(&mut self, damping: &mut Damping, to: State, pause_ns: u64) -> bool {
        self.now_ns += pause_ns;
        let session = &mut self.entry.session;
        let event = Event {
            from: session.state,
            to,
            at_ns: self.now_ns,
            ..fixture::event(2)
        };
        (session.state, session.since_ns) = (to, self.now_ns);
        session.transitions += 1;
        session.ups += u32::from(to == State::Up);
        let is_told = tells_of_packets(self.entry.held);
        let is_reviewed = is_told && damping.changed(&event, self.now_ns);
        if is_reviewed {
            self.review(damping);
        }
        is_reviewed
    }

    fn flaps(&mut self, damping: &mut Damping, times: usize, pause_ns: u64) {
        for _ in 0..times {
            self.goes(damping, State::Down, pause_ns);
            self.goes(damping, State::Up, pause_ns);
        }
    }

    fn review(&mut self, damping: &mut Damping) {
        self.entry.held = damping.review(&self.entry, self.now_ns);
        assert!(!damping.is_amiss(&self.entry, self.now_ns));
    }

    /// Time passes, and the owner's appointments are kept.
    fn waits(&mut self, damping: &mut Damping, pause_ns: u64) {
        let until_ns = self.now_ns + pause_ns;
        while let Some(at_ns) = damping.next_ns().filter(|at_ns| *at_ns <= until_ns) {
            self.now_ns = self.now_ns.max(at_ns);
            while damping.take_due(self.now_ns).is_some() {
                self.review(damping);
            }
        }
        self.now_ns = until_ns;
    }

    /// Returns for how long it is held from now on, s.
    fn held_s(&self, damping: &Damping) -> Option<u64> {
        let (_, until_ns) = damping.hold_of(&self.entry.key)?;
        Some((until_ns - self.now_ns).div_ceil(SECOND_NS))
    }
}

fn on() -> Damping {
    Damping::new(true, 0)
}

#[test]
fn five_downs_are_borne_and_the_sixth_is_not() {
    let (mut damping, mut peer) = (on(), Peer::new());
    peer.flaps(&mut damping, 5, SECOND_NS);
    assert_eq!((peer.entry.held, damping.next_ns()), (0, None));
    assert!(peer.goes(&mut damping, State::Down, SECOND_NS));
    assert_eq!(peer.entry.held, HELD_DAMPED);
    assert_eq!(
        damping.hold_of(&key()),
        Some((Held::Flapping, peer.now_ns + FIRST_HOLD_NS))
    );
    // It comes Up, and does not count before the hold is over.
    peer.goes(&mut damping, State::Up, SECOND_NS);
    peer.waits(&mut damping, 3_999 * MS);
    assert!(!peer.entry.counts_as_up());
    peer.waits(&mut damping, MS);
    assert!(peer.entry.counts_as_up());
    assert_eq!((damping.hold_of(&key()), damping.next_ns()), (None, None));
}

#[test]
fn downs_far_apart_are_borne_for_ever() {
    let (mut damping, mut peer) = (on(), Peer::new());
    // Five within 30 s, and never a sixth.
    peer.flaps(&mut damping, 100, 3_100 * MS);
    assert_eq!(peer.entry.held, 0);
}

#[test]
fn what_takes_a_session_down_itself_does_not_count() {
    let (mut damping, mut peer) = (on(), Peer::new());
    for _ in 0..20 {
        peer.goes(&mut damping, State::AdminDown, SECOND_NS);
        damping.forget(&key());
        peer.goes(&mut damping, State::Down, 0);
        peer.goes(&mut damping, State::Up, 0);
        damping.forget(&key());
    }
    assert_eq!((peer.entry.held, damping.next_ns()), (0, None));
}

#[test]
fn holds_double_up_to_a_minute() {
    let (mut damping, mut peer) = (on(), Peer::new());
    let mut seen = Vec::new();
    for _ in 0..6 {
        let before = seen.len();
        while seen.len() == before {
            if peer.goes(&mut damping, State::Down, 100 * MS) {
                seen.extend(peer.held_s(&damping));
            }
            peer.goes(&mut damping, State::Up, 100 * MS);
        }
        peer.waits(&mut damping, 70 * SECOND_NS);
        assert_eq!(peer.entry.held, 0, "let go");
    }
    assert_eq!(seen, [5, 10, 20, 40, 60, 60]);
}

#[test]
fn who_goes_on_flapping_is_not_let_go() {
    let (mut damping, mut peer) = (on(), Peer::new());
    let mut counted_ns = 0;
    for _ in 0..600 {
        peer.goes(&mut damping, State::Down, 0);
        peer.waits(&mut damping, 500 * MS);
        peer.goes(&mut damping, State::Up, 0);
        peer.waits(&mut damping, 500 * MS);
        counted_ns += u64::from(peer.entry.counts_as_up());
    }
    assert!(counted_ns < 20, "counted as Up {counted_ns} times of 600");
    // It is let go as soon as the last hold is over.
    peer.waits(&mut damping, LONGEST_HOLD_NS);
    assert!(peer.entry.counts_as_up());
}

#[test]
fn five_minutes_up_and_nothing_is_remembered() {
    let (mut damping, mut peer) = (on(), Peer::new());
    peer.flaps(&mut damping, 6, 100 * MS);
    peer.waits(&mut damping, FORGIVEN_NS - SECOND_NS);
    damping.forgive(&[peer.entry], peer.now_ns);
    assert_eq!(damping.records.len(), 1, "the next hold would be longer");
    peer.waits(&mut damping, SECOND_NS);
    damping.forgive(&[peer.entry], peer.now_ns);
    assert!(damping.records.is_empty());
    peer.flaps(&mut damping, 6, 100 * MS);
    assert_eq!(damping.records[&key()].holds, 1);
}

#[test]
fn who_was_never_held_is_forgotten_with_the_window() {
    let (mut damping, mut peer) = (on(), Peer::new());
    peer.flaps(&mut damping, 1, 100 * MS);
    damping.route_taken(&key(), peer.now_ns);
    damping.forgive(&[peer.entry], peer.now_ns + WINDOW_NS);
    assert_eq!(damping.records.len(), 1);
    damping.forgive(&[peer.entry], peer.now_ns + WINDOW_NS + 1);
    assert!(damping.records.is_empty());
}

#[test]
fn a_peer_as_fast_as_it_can_be_is_heard_of_a_few_times() {
    for is_on in [true, false] {
        let (mut damping, mut peer) = (Damping::new(is_on, 0), Peer::new());
        let (mut told, mut counted) = (0, 0);
        // For ten seconds, 20,000 changes a second.
        for _ in 0..100_000 {
            for to in [State::Down, State::Up] {
                told += u32::from(tells_of_packets(peer.entry.held));
                counted += u32::from(peer.entry.counts_as_up() && to == State::Down);
                peer.goes(&mut damping, to, 50_000);
                peer.waits(&mut damping, 0);
            }
        }
        // Held: once until the first hold, and from then on at the end of holds alone. Not held: so often each second.
        let (most_told, most_counted) = if is_on {
            (25, 12)
        } else {
            (11 * CHANGES, 200_000)
        };
        assert!(told <= most_told, "{told} told, damping {is_on}");
        assert!(
            counted <= most_counted,
            "{counted} counted, damping {is_on}"
        );
        peer.waits(&mut damping, LONGEST_HOLD_NS);
        assert!(peer.entry.counts_as_up() && tells_of_packets(peer.entry.held));
    }
}

#[test]
fn a_peer_that_never_comes_up_is_not_heard_of_all_the_time_either() {
    let (mut damping, mut peer) = (on(), Peer::new());
    let mut told = 0;
    for _ in 0..10_000 {
        for to in [State::Init, State::Down] {
            told += u32::from(tells_of_packets(peer.entry.held));
            peer.goes(&mut damping, to, 50_000);
            peer.waits(&mut damping, 0);
        }
    }
    assert!(told <= 2 * (CHANGES + 1) + 1, "{told} told in a second");
    assert_eq!(damping.hold_of(&key()), None, "it was not Up");
}

#[test]
fn events_of_the_time_before_the_quiet_change_nothing() {
    let (mut damping, mut peer) = (on(), Peer::new());
    let early = Event {
        at_ns: NOW_NS,
        ..fixture::event(2)
    };
    peer.flaps(&mut damping, 11, MS);
    assert_eq!(peer.entry.held, HELD_DAMPED | HELD_QUIET);
    let before = damping.hold_of(&key());
    for _ in 0..100 {
        assert!(!damping.changed(&early, peer.now_ns));
    }
    assert_eq!(damping.hold_of(&key()), before);
}

#[test]
fn a_route_that_others_take_all_the_time_is_given_up_for_a_while() {
    let (mut damping, mut peer) = (on(), Peer::new());
    for time in 0..=LOSSES as u64 {
        peer.now_ns += MS;
        let is_held = damping.route_taken(&key(), peer.now_ns);
        assert_eq!(is_held, time == LOSSES as u64, "{time}");
        let is_contested = damping.is_contested(&key(), peer.now_ns);
        assert_eq!(is_contested, time + 1 >= LOSSES as u64, "{time}");
    }
    peer.review(&mut damping);
    assert_eq!(peer.entry.held, HELD_DAMPED);
    assert_eq!(
        damping.hold_of(&key()).map(|(why, _)| why),
        Some(Held::RouteTaken)
    );
    peer.waits(&mut damping, FIRST_HOLD_NS);
    assert_eq!(peer.entry.held, 0);
    assert!(!damping.is_contested(&key(), peer.now_ns));
}

#[test]
fn off_means_that_nobody_is_held() {
    let (mut damping, mut peer) = (Damping::new(false, 0), Peer::new());
    peer.flaps(&mut damping, 9, 100 * MS);
    for _ in 0..2 * LOSSES {
        assert!(!damping.route_taken(&key(), peer.now_ns));
    }
    assert_eq!((peer.entry.held, damping.hold_of(&key())), (0, None));
    assert!(
        damping.is_contested(&key(), peer.now_ns),
        "but it is put back less often"
    );
    // Nor one that an earlier agent held.
    peer.entry.held = HELD_DAMPED | HELD_QUIET;
    damping.adopt(&peer.entry, peer.now_ns);
    assert!(damping.is_amiss(&peer.entry, peer.now_ns));
    peer.review(&mut damping);
    assert_eq!(peer.entry.held, 0);
}

#[test]
fn a_session_that_an_earlier_agent_held_is_held_once_more() {
    let (mut damping, mut peer) = (on(), Peer::new());
    peer.entry.held = HELD_DAMPED | HELD_QUIET;
    damping.adopt(&peer.entry, peer.now_ns);
    peer.review(&mut damping);
    assert_eq!(peer.entry.held, HELD_DAMPED);
    assert_eq!(
        damping.hold_of(&key()).map(|(why, _)| why),
        Some(Held::TakenOver)
    );
    peer.waits(&mut damping, FIRST_HOLD_NS);
    assert_eq!(peer.entry.held, 0);
}

#[test]
fn an_appointment_that_could_not_be_kept_is_found_by_a_full_check() {
    let (mut damping, mut peer) = (on(), Peer::new());
    peer.flaps(&mut damping, 6, 100 * MS);
    peer.now_ns += FIRST_HOLD_NS;
    // The session could not be read.
    while damping.take_due(peer.now_ns).is_some() {}
    assert!(damping.is_amiss(&peer.entry, peer.now_ns));
    peer.review(&mut damping);
    assert_eq!(peer.entry.held, 0);
}

#[test]
fn with_hold_up_a_session_counts_when_it_has_been_up_for_so_long() {
    let mut damping = Damping::new(false, 2 * SECOND_NS);
    let mut peer = Peer::new();
    peer.entry.session.state = State::Down;
    peer.entry.held = damping.at_first();
    assert_eq!(peer.entry.held, HELD_NEW);
    for pause_ns in [SECOND_NS, 1_999 * MS] {
        peer.goes(&mut damping, State::Up, SECOND_NS);
        peer.waits(&mut damping, pause_ns);
        assert!(!peer.entry.counts_as_up());
        peer.goes(&mut damping, State::Down, 0);
    }
    peer.goes(&mut damping, State::Up, SECOND_NS);
    peer.waits(&mut damping, 2 * SECOND_NS);
    assert!(peer.entry.counts_as_up());
    damping.forgive(&[peer.entry], peer.now_ns + WINDOW_NS);
    assert!(damping.records.is_empty() && !damping.is_amiss(&peer.entry, peer.now_ns));
}

#[test]
fn with_hold_up_a_flap_that_is_over_when_it_is_read_of_counts_too() {
    let mut damping = Damping::new(true, 2 * SECOND_NS);
    let mut peer = Peer::new();
    peer.waits(&mut damping, 10 * SECOND_NS);
    let down = Event {
        at_ns: peer.now_ns,
        ..fixture::event(2)
    };
    // Up again before the agent reads of the Down.
    peer.now_ns += MS;
    peer.entry.session.since_ns = peer.now_ns;
    assert!(damping.changed(&down, peer.now_ns));
    peer.review(&mut damping);
    assert!(!peer.entry.counts_as_up());
    peer.waits(&mut damping, 2 * SECOND_NS);
    assert!(peer.entry.counts_as_up());
}

#[test]
fn a_session_that_counted_before_the_option_was_given_goes_on_counting() {
    let damping = Damping::new(true, 60 * SECOND_NS);
    let peer = Peer::new();
    assert!(!damping.is_amiss(&peer.entry, peer.now_ns));
    // And without the option any more, one that did not count counts at once.
    let mut new = Peer::new();
    new.entry.held = HELD_NEW;
    assert!(on().is_amiss(&new.entry, new.now_ns));
    new.review(&mut on());
    assert_eq!(new.entry.held, 0);
}

#[test]
fn a_session_that_is_gone_has_no_appointment() {
    let (mut damping, mut peer) = (on(), Peer::new());
    peer.flaps(&mut damping, 6, 100 * MS);
    assert!(damping.next_ns().is_some());
    damping.forget(&key());
    assert_eq!((damping.next_ns(), damping.hold_of(&key())), (None, None));
    assert!(damping.records.is_empty() && damping.due.is_empty());
}
