//! Every state of a session × every event.

use crate::support::{CONFIG, FAST_NS, OTHER, OURS, PEERS, START_NS, packet, session_in};
use dz_common::counters::{Counter, Kind};
use dz_common::packet::State::{self, AdminDown, Down, Init, Up};
use dz_common::session::{DownReason, Mode, Receipt, Session};

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
