//! What a packet makes of a session's entry in the map: exits, answers and events.

use crate::support::{CONFIG, FAST_NS, OTHER, OURS, PEERS, START_NS, entry, packet, session_in};
use dz_common::counters::Counter;
use dz_common::map::NEVER_NS;
use dz_common::packet::Packet;
use dz_common::packet::State::{AdminDown, Down, Init, Up};
use dz_common::session::DownReason;

#[test]
fn an_entry_takes_every_exit_of_a_valid_packet() {
    let step = |state, held_ns, said, echo, attended| {
        let mut entry = entry(session_in(state, START_NS), 1);
        entry.session.transmitted(START_NS, 0);
        let outcome = entry.receive(&packet(said, echo), &CONFIG, START_NS + held_ns, attended);
        assert_eq!(entry.received, 1);
        assert_eq!(
            entry.answered,
            u64::from(outcome.exit == Counter::RxAnswered)
        );
        assert_eq!(outcome.transition.is_some(), entry.session.state != state);
        outcome.exit
    };
    assert_eq!(step(AdminDown, 0, Up, OURS, true), Counter::DropAdminDown);
    assert_eq!(
        step(Up, 0, Up, OTHER, true),
        Counter::DropWrongDiscriminator
    );
    assert_eq!(
        step(Up, 0, Init, 0, true),
        Counter::DropZeroYourDiscriminator
    );
    assert_eq!(
        step(Down, 0, AdminDown, 0, true),
        Counter::DropUnprovenAdminDown
    );
    for (state, said, echo) in [(Down, Down, 0), (Init, Up, OTHER), (Up, Down, OTHER)] {
        assert_eq!(
            step(state, 0, said, echo, true),
            Counter::RxUnprovenAnswered
        );
        assert_eq!(step(state, 0, said, echo, false), Counter::RxUnattended);
    }
    assert_eq!(step(Up, 0, AdminDown, OURS, true), Counter::RxRemoteAdmin);
    assert_eq!(step(Up, 0, AdminDown, OURS, false), Counter::RxRemoteAdmin);
    assert_eq!(step(Up, 0, Up, OURS, true), Counter::RxPaced);
    assert_eq!(step(Up, FAST_NS, Up, OURS, true), Counter::RxAnswered);
    assert_eq!(step(Up, FAST_NS, Up, OURS, false), Counter::RxUnattended);
    assert_eq!(
        step(Down, 1, Down, OURS, true),
        Counter::RxAnswered,
        "a change is told at once"
    );

    let mut entry = entry(session_in(Down, START_NS), 1);
    let exits: Vec<_> = (0..10)
        .map(|i| {
            let said = if i % 2 == 0 { Down } else { AdminDown };
            entry
                .receive(&packet(said, OURS), &CONFIG, START_NS + i, true)
                .exit
        })
        .filter(|exit| *exit != Counter::RxRemoteAdmin)
        .collect();
    let mut expected = [Counter::RxAnswered; 5];
    expected[3..].fill(Counter::RxBurstSpent);
    assert_eq!(exits, expected);
}

#[test]
fn an_answer_carries_the_new_state_and_events_say_where_convergence_started() {
    let mut entry = entry(session_in(Down, START_NS), 1);
    assert_eq!(entry.scan_deadline_ns(), NEVER_NS);
    let at = |n: u64| START_NS + n * FAST_NS;
    let init = entry.receive(&packet(Down, OURS), &CONFIG, at(1), true);
    let answer = init.answer.unwrap();
    assert_eq!(
        (answer.state, answer.your_discr, answer.version),
        (Init, PEERS, CONFIG.version)
    );
    assert_eq!(entry.scan_deadline_ns(), at(4));

    let up = entry
        .receive(&packet(Init, OURS), &CONFIG, at(2), true)
        .transition
        .unwrap();
    assert_eq!(
        (up.from, up.to, up.since_ns, up.sequence),
        (Init, Up, at(1), 2)
    );

    let down = entry.expire(at(5)).unwrap();
    assert_eq!(
        (down.to, down.reason, down.since_ns),
        (Down, DownReason::Timeout, at(3))
    );
    let event = down.event(entry.key, entry.generation, at(5));
    assert_eq!((event.sequence, event.at_ns), (3, at(5)));

    let admin = entry.admin_down(at(6)).unwrap();
    assert_eq!(
        (admin.to, admin.reason, admin.since_ns),
        (AdminDown, DownReason::LocalAdmin, at(6))
    );
    assert!(entry.admin_down(at(7)).is_none());
}

#[test]
fn a_stale_down_is_told_apart() {
    let mut up = entry(session_in(Up, START_NS), 1);
    assert!(
        up.receive(&packet(Down, OURS), &CONFIG, START_NS + 1, true)
            .stale_down
    );
}

/// Strangers share one answer per ¾ interval, whatever they say. Who has the discriminator of the peer
/// as it was last proven need not wait for theirs, but for its own.
#[test]
fn unproven_packets_are_answered_once_per_three_quarters_of_an_interval() {
    let mut up = entry(session_in(Up, START_NS), 1);
    up.session.transmitted(START_NS, 0);
    let before = up.session;
    let mut ask = |my_discr, at_ns| {
        let asking = Packet {
            my_discr,
            ..packet(Down, 0)
        };
        let outcome = up.receive(&asking, &CONFIG, START_NS + at_ns, true);
        assert_eq!(up.session, before, "it is no transmission");
        let answer = outcome
            .answer
            .map(|answer| (answer.state, answer.your_discr));
        assert_eq!(answer, answer.map(|_| (Up, my_discr)));
        outcome.exit
    };
    let pace_ns = FAST_NS / 4 * 3;
    assert_eq!(ask(5, 0), Counter::RxUnprovenAnswered);
    assert_eq!(ask(6, 1), Counter::RxUnprovenPaced);
    assert_eq!(ask(PEERS, 2_048), Counter::RxUnprovenAnswered);
    assert_eq!(ask(PEERS, 4_096), Counter::RxUnprovenPaced);
    assert_eq!(ask(5, pace_ns), Counter::RxUnprovenPaced);
    assert_eq!(ask(5, pace_ns + 4_096), Counter::RxUnprovenAnswered);
    assert_eq!(ask(PEERS, pace_ns + 6_144), Counter::RxUnprovenAnswered);
    assert_eq!(ask(PEERS, pace_ns + 8_192), Counter::RxUnprovenPaced);

    let mut down = entry(session_in(Down, START_NS), 1);
    let answer = down
        .receive(&packet(Down, OTHER), &CONFIG, START_NS, true)
        .answer;
    let answer = answer.map(|answer| (answer.state, answer.your_discr, answer.my_discr));
    assert_eq!(
        answer,
        Some((Init, PEERS, OURS)),
        "so that a peer that is Down goes Up"
    );
    let next = down.receive(&packet(Down, OTHER), &CONFIG, START_NS, true);
    assert_eq!(next.exit, Counter::RxUnprovenPaced);
}
