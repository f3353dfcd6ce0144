//! Every state × every event.

use crate::support::{CONFIG, FAST_NS, OURS, PEERS, START_NS, entry, packet, session_in};
use dz_common::counters::{Counter, Kind};
use dz_common::map::NEVER_NS;
use dz_common::packet::State::{self, AdminDown, Down, Init, Up};
use dz_common::session::{DownReason, Mode, Receipt, Session};

const OTHER: u32 = 0x7777_7777;
const ECHOES: [u32; 3] = [0, OURS, OTHER];
/// Longer than the detect time of the sessions here.
const LONG_NS: u64 = 4 * FAST_NS;

/// What a packet leads to; one of each for the echoes none, ours, another's.
type Row = [(Receipt, State); 3];

const IGNORED: Row = [(Receipt::AdminDown, AdminDown); 3];
const fn row(none: (Receipt, State), ours: (Receipt, State), state: State) -> Row {
    [none, ours, (Receipt::WrongDiscriminator, state)]
}
const fn both(receipt: Receipt, to: State, from: State) -> Row {
    row((receipt, to), (receipt, to), from)
}
const fn accepted(none: State, ours: State, from: State) -> Row {
    row((Receipt::Accepted, none), (Receipt::Accepted, ours), from)
}

/// Our state, how long we have been in it, and a row for each state that the peer may say.
const TABLE: [(State, u64, [Row; 4]); 8] = [
    (AdminDown, 0, [IGNORED; 4]),
    (AdminDown, LONG_NS, [IGNORED; 4]),
    (Down, 0, DOWN),
    (Down, LONG_NS, DOWN),
    (Init, 0, INIT),
    (Init, LONG_NS, INIT),
    (
        Up,
        0,
        [
            both(Receipt::RemoteAdmin, Down, Up),
            both(Receipt::StaleDown, Up, Up),
            both(Receipt::Accepted, Up, Up),
            both(Receipt::Accepted, Up, Up),
        ],
    ),
    (
        Up,
        LONG_NS,
        [
            both(Receipt::RemoteAdmin, Down, Up),
            both(Receipt::RemoteDown, Down, Up),
            both(Receipt::Accepted, Up, Up),
            both(Receipt::Accepted, Up, Up),
        ],
    ),
];
const DOWN: [Row; 4] = [
    both(Receipt::RemoteAdmin, Down, Down),
    both(Receipt::Accepted, Init, Down),
    accepted(Init, Up, Down),
    accepted(Init, Up, Down),
];
const INIT: [Row; 4] = [
    both(Receipt::RemoteAdmin, Down, Init),
    both(Receipt::RemoteDown, Down, Init),
    accepted(Init, Up, Init),
    accepted(Init, Up, Init),
];

#[test]
fn every_packet_in_every_state_leads_where_the_table_says() {
    for (from, held_ns, rows) in TABLE {
        for (said, row) in State::ALL.into_iter().zip(rows) {
            for (your_discr, (receipt, to)) in ECHOES.into_iter().zip(row) {
                let case = format!("{from:?} for {held_ns} ns, {said:?} echoing {your_discr:#x}");
                let mut session = session_in(from, START_NS);
                let before = session;
                let now_ns = START_NS + held_ns;
                let mut packet = packet(said, your_discr);
                packet.my_discr = PEERS + 1;
                packet.passive = true;
                assert_eq!(session.receive(&packet, now_ns), receipt, "{case}");
                assert_eq!(session.state, to, "{case}");
                check_effects(&before, &session, receipt, now_ns, &case);
            }
        }
    }
}

/// What a receipt may touch, and what it must not.
fn check_effects(before: &Session, after: &Session, receipt: Receipt, now_ns: u64, case: &str) {
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
    let learned = receipt == Receipt::Accepted;
    assert_eq!(
        after.peer_discr,
        if learned {
            PEERS + 1
        } else {
            before.peer_discr
        },
        "{case}"
    );
    assert_eq!(
        after.last_rx_ns,
        if learned { now_ns } else { before.last_rx_ns },
        "{case}"
    );
    let reason = match receipt {
        Receipt::RemoteAdmin => DownReason::RemoteAdmin,
        Receipt::RemoteDown => DownReason::RemoteDown,
        _ if changed => DownReason::None,
        _ => before.down_reason,
    };
    assert_eq!(after.down_reason, reason, "{case}");
    if matches!(receipt, Receipt::AdminDown | Receipt::WrongDiscriminator) {
        let ignored = Session {
            echoed_discr: before.echoed_discr,
            ..*after
        };
        assert_eq!(ignored, *before, "{case}: rules 1 and 2 change nothing");
    } else {
        assert_eq!(after.peer_mode, Mode::Passive, "{case}: rule 3");
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
        assert_eq!(entry.answered, u64::from(outcome.answer.is_some()));
        assert_eq!(outcome.transition.is_some(), entry.session.state != state);
        outcome.exit
    };
    assert_eq!(step(AdminDown, 0, Up, OURS, true), Counter::DropAdminDown);
    assert_eq!(
        step(Up, 0, Up, OTHER, true),
        Counter::DropWrongDiscriminator
    );
    assert_eq!(step(Up, 0, AdminDown, OURS, true), Counter::RxRemoteAdmin);
    assert_eq!(step(Up, 0, AdminDown, OURS, false), Counter::RxRemoteAdmin);
    assert_eq!(step(Up, 0, Up, OURS, true), Counter::RxPaced);
    assert_eq!(step(Up, FAST_NS, Up, OURS, true), Counter::RxAnswered);
    assert_eq!(step(Up, FAST_NS, Up, OURS, false), Counter::RxUnattended);
    assert_eq!(
        step(Down, 1, Down, 0, true),
        Counter::RxAnswered,
        "a change is told at once"
    );

    let mut entry = entry(session_in(Down, START_NS), 1);
    let exits: Vec<_> = (0..10)
        .map(|i| {
            let said = if i % 2 == 0 { Down } else { AdminDown };
            entry
                .receive(&packet(said, 0), &CONFIG, START_NS + i, true)
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
    let init = entry.receive(&packet(Down, 0), &CONFIG, at(1), true);
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
fn adoption_and_stale_down_are_told_apart() {
    let mut down = entry(session_in(Down, START_NS), 1);
    let first = down.receive(&packet(Up, OTHER), &CONFIG, START_NS, true);
    assert_eq!(
        (first.exit, first.adopted),
        (Counter::DropWrongDiscriminator, false)
    );
    let second = down.receive(&packet(Up, OTHER), &CONFIG, START_NS, true);
    assert_eq!((second.exit, second.adopted), (Counter::RxAnswered, true));
    assert_eq!(down.session.state, Up);

    let mut up = entry(session_in(Up, START_NS), 1);
    assert!(
        up.receive(&packet(Down, OURS), &CONFIG, START_NS + 1, true)
            .stale_down
    );
}
