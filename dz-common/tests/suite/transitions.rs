//! Every state × every event.

use crate::support::{CONFIG, FAST_NS, OURS, PEERS, START_NS, entry, packet, session_in};
use dz_common::counters::{Counter, Kind};
use dz_common::map::NEVER_NS;
use dz_common::packet::Packet;
use dz_common::packet::State::{self, AdminDown, Down, Init, Up};
use dz_common::session::{DownReason, Mode, Receipt, Session};

const OTHER: u32 = 0x7777_7777;
const ECHOES: [u32; 3] = [0, OURS, OTHER];
/// Longer than the detect time of the sessions here.
const LONG_NS: u64 = 4 * FAST_NS;

/// What a packet that echoes us leads to, for each state that the peer may say.
type Row = [(Receipt, State); 4];

const IGNORED: Row = [(Receipt::AdminDown, AdminDown); 4];
const DOWN: Row = [
    (Receipt::RemoteAdmin, Down),
    (Receipt::Accepted, Init),
    (Receipt::Accepted, Up),
    (Receipt::Accepted, Up),
];
const INIT: Row = [
    (Receipt::RemoteAdmin, Down),
    (Receipt::RemoteDown, Down),
    (Receipt::Accepted, Up),
    (Receipt::Accepted, Up),
];

/// Our state, how long we have been in it, and where proven packets lead.
const TABLE: [(State, u64, Row); 8] = [
    (AdminDown, 0, IGNORED),
    (AdminDown, LONG_NS, IGNORED),
    (Down, 0, DOWN),
    (Down, LONG_NS, DOWN),
    (Init, 0, INIT),
    (Init, LONG_NS, INIT),
    (
        Up,
        0,
        [
            (Receipt::RemoteAdmin, Down),
            (Receipt::StaleDown, Up),
            (Receipt::Accepted, Up),
            (Receipt::Accepted, Up),
        ],
    ),
    (
        Up,
        LONG_NS,
        [
            (Receipt::RemoteAdmin, Down),
            (Receipt::RemoteDown, Down),
            (Receipt::Accepted, Up),
            (Receipt::Accepted, Up),
        ],
    ),
];

/// What becomes of a packet that does not echo us: nothing in any session.
fn unproven(ours: State, said: State, your_discr: u32) -> Receipt {
    match (ours, said) {
        (AdminDown, _) => Receipt::AdminDown,
        (_, AdminDown) => Receipt::UnprovenAdmin,
        (_, Down) => Receipt::Unproven,
        _ if your_discr == 0 => Receipt::ZeroEcho,
        (Up, _) => Receipt::WrongDiscriminator,
        _ => Receipt::Unproven,
    }
}

#[test]
fn every_packet_in_every_state_leads_where_the_table_says() {
    for (from, held_ns, row) in TABLE {
        for (said, proven) in State::ALL.into_iter().zip(row) {
            for your_discr in ECHOES {
                let case = format!("{from:?} for {held_ns} ns, {said:?} echoing {your_discr:#x}");
                let mut session = session_in(from, START_NS);
                let before = session;
                let now_ns = START_NS + held_ns;
                let mut packet = packet(said, your_discr);
                packet.my_discr = PEERS + 1;
                packet.passive = true;
                let (receipt, to) = if your_discr == OURS {
                    proven
                } else {
                    (unproven(from, said, your_discr), from)
                };
                assert_eq!(session.receive(&packet, now_ns), receipt, "{case}");
                assert_eq!(session.state, to, "{case}");
                check_effects(&before, &session, receipt, now_ns, &case);
            }
        }
    }
}

/// A Down from whoever has the discriminator of the peer as it was last proven is told from a
/// stranger's. Not so its Init: blind senders can make a peer of ours say that to us.
#[test]
fn a_peer_that_comes_back_is_known_by_its_discriminator() {
    for (from, said, your_discr, expected) in [
        (Up, Down, 0, Receipt::Returning),
        (Up, Down, OTHER, Receipt::Returning),
        (Init, Init, OTHER, Receipt::Unproven),
        (Init, Up, OTHER, Receipt::Unproven),
    ] {
        let mut session = session_in(from, START_NS);
        let before = session;
        let receipt = session.receive(&packet(said, your_discr), START_NS);
        assert_eq!((receipt, session), (expected, before));
    }
    let mut never_heard = session_in(Down, START_NS);
    let receipt = never_heard.receive(&packet(Down, 0), START_NS);
    assert_eq!(receipt, Receipt::Unproven);
}

/// What a receipt may touch, and what it must not.
fn check_effects(before: &Session, after: &Session, receipt: Receipt, now_ns: u64, case: &str) {
    if !receipt.is_proven() {
        assert_eq!(after, before, "{case}: changes nothing");
        return;
    }
    let changed = before.state != after.state;
    assert_eq!(
        after.transitions,
        before.transitions + u32::from(changed),
        "{case}"
    );
    assert_eq!(
        after.since_ns,
        if changed { now_ns } else { before.since_ns },
        "{case}"
    );
    let deadline_ns = match receipt {
        Receipt::Accepted => now_ns + after.detect_time_ns(),
        Receipt::RemoteAdmin | Receipt::RemoteDown => 0,
        _ => before.detect_deadline_ns,
    };
    assert_eq!(after.detect_deadline_ns, deadline_ns, "{case}");
    let accepted = receipt == Receipt::Accepted;
    assert_eq!(
        after.last_rx_ns,
        if accepted { now_ns } else { before.last_rx_ns },
        "{case}"
    );
    let reason = match receipt {
        Receipt::RemoteAdmin => DownReason::RemoteAdmin,
        Receipt::RemoteDown => DownReason::RemoteDown,
        _ if changed => DownReason::None,
        _ => before.down_reason,
    };
    assert_eq!(after.down_reason, reason, "{case}");
    assert_eq!(after.peer_mode, Mode::Passive, "{case}: rule 3");
    assert_eq!(after.peer_discr, PEERS + 1, "{case}: RFC 5880 §6.8.6");
}

/// RFC 5880 §6.8.1: while nothing is proven nothing is echoed, but for the two packets that say that we
/// are not Up any more, and AdminDown.
#[test]
fn what_was_proven_once_is_echoed_twice() {
    let echoes = |session: &mut Session, count: u64| -> Vec<u32> {
        let tell = |n| {
            session.transmitted(START_NS + n * LONG_NS, 0);
            session.packet(CONFIG.version).your_discr
        };
        (0..count).map(tell).collect()
    };
    let mut up = session_in(Up, START_NS);
    assert_eq!(echoes(&mut up, 4), [PEERS; 4]);
    assert!(up.expire(u64::MAX));
    assert_eq!(echoes(&mut up, 4), [PEERS, PEERS, 0, 0]);
    up.admin_down(START_NS);
    assert_eq!(echoes(&mut up, 1), [0], "as before");

    let mut told = session_in(Up, START_NS);
    let remote = told.receive(&packet(Down, OURS), START_NS + LONG_NS);
    assert_eq!(remote, Receipt::RemoteDown);
    assert_eq!(echoes(&mut told, 3), [PEERS, PEERS, 0]);
    told.receive(&packet(Init, OURS), START_NS + LONG_NS);
    assert_eq!(echoes(&mut told, 3), [PEERS; 3], "proven again");

    let mut init = session_in(Init, START_NS);
    assert_eq!(echoes(&mut init, 3), [PEERS; 3]);
    assert!(init.expire(u64::MAX));
    assert_eq!(
        echoes(&mut init, 1),
        [0],
        "it was never told that we are Up"
    );

    for from in [Up, Init] {
        let mut admin = session_in(from, START_NS);
        admin.admin_down(START_NS);
        assert_eq!(
            echoes(&mut admin, 5),
            [PEERS; 5],
            "however often it is said"
        );
    }
}

#[test]
fn the_deadline_takes_init_and_up_down_and_nothing_else() {
    for from in State::ALL {
        for (late_ns, late) in [(0, false), (3 * FAST_NS - 1, false), (3 * FAST_NS, true)] {
            let mut session = session_in(from, START_NS);
            let armed = matches!(from, Init | Up);
            assert_eq!(session.detect_deadline_ns != 0, armed);
            assert_eq!(
                session.expire(START_NS + late_ns),
                armed && late,
                "{from:?} {late_ns}"
            );
            let expired = armed && late;
            assert_eq!(session.state, if expired { Down } else { from });
            if expired {
                assert_eq!(session.down_reason, DownReason::Timeout);
                assert_eq!(session.detect_deadline_ns, 0);
                assert!(!session.expire(u64::MAX), "only once");
            }
        }
    }
}

#[test]
fn commands_enter_and_leave_admin_down() {
    for from in State::ALL {
        let mut session = session_in(from, START_NS);
        assert_eq!(session.admin_down(START_NS + 1), from != AdminDown);
        assert_eq!(
            (session.state, session.down_reason),
            (AdminDown, DownReason::LocalAdmin)
        );
        assert_eq!((session.detect_deadline_ns, session.first_rx_ns), (0, 0));
        assert!(session.admin_up(START_NS + 2));
        assert_eq!(
            (session.state, session.backoff, session.announce),
            (Down, 1, 1)
        );

        let mut session = session_in(from, START_NS);
        assert_eq!(session.admin_up(START_NS), from == AdminDown);
    }
}

#[test]
fn every_change_has_its_counter_and_every_such_counter_a_change() {
    let reasons = [
        DownReason::None,
        DownReason::Timeout,
        DownReason::RemoteAdmin,
        DownReason::LocalAdmin,
        DownReason::RemoteDown,
    ];
    let all = State::ALL
        .into_iter()
        .flat_map(|from| State::ALL.map(|to| (from, to)));
    let mut seen: Vec<Counter> = all
        .flat_map(|(from, to)| reasons.map(|reason| Counter::transition(from, to, reason)))
        .flatten()
        .collect();
    seen.sort_by_key(|counter| *counter as u32);
    seen.dedup();
    let named = Counter::ALL
        .iter()
        .copied()
        .filter(|counter| counter.kind() == Kind::Transition);
    assert_eq!(seen, named.collect::<Vec<_>>());
}

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
