//! The judge, on histories that are made up: each rule finds its breach, and nothing else.

use anyhow::{Result, ensure};
use dz_common::packet::State;
use dz_tests::answerer::peer as address;
use dz_tests::harness::Test;
use dz_tests::route_log::Mark;
use dz_tests::rtnl::{Change, Route};

use crate::history::{Act, History, Look, Round};
use crate::judge::judge;

const OURS: (u8, u32) = (144, 7);

/// A name, a history, and what its fault says if it has one.
type Case = (&'static str, fn() -> History, &'static [&'static str]);

pub(super) fn tests() -> Vec<Test> {
    let cases: [Case; 8] = [
        ("verdicts::all_well", all_well, &[]),
        ("verdicts::route_left", route_left, &["was there when"]),
        ("verdicts::route_back", route_back, &["came while"]),
        ("verdicts::route_twice", route_twice, &["came back during"]),
        (
            "verdicts::session_left",
            session_left,
            &["a session was there"],
        ),
        ("verdicts::no_session", no_session, &["without its session"]),
        ("verdicts::revived", revived, &["Up after AdminDown"]),
        (
            "verdicts::inserted_again",
            inserted_again,
            &["2 sessions inserted"],
        ),
    ];
    cases
        .map(|(name, history, wanted)| Test::new(name, &[], move || finds(&history(), wanted)))
        .into()
}

fn finds(history: &History, wanted: &[&str]) -> Result<()> {
    let faults = judge(history).faults;
    ensure!(faults.len() == wanted.len(), "{faults:?}");
    for (fault, wanted) in faults.iter().zip(wanted) {
        ensure!(
            fault.to_lowercase().contains(&wanted.to_lowercase()),
            "{fault}"
        );
    }
    Ok(())
}

/// One peer, connected at 10..20 (marks 1 and 2), disconnected at 50..80 (marks 4 and 6); a route
/// that comes at 30 and goes at 70; looks at 40 (mark 3), 60 (mark 5) and 90 (mark 7).
fn all_well() -> History {
    let act = |connect, sent, answered| Act {
        connect,
        sent,
        answered: Some(answered),
    };
    let sent = |mark, at_ns| (Mark(mark), at_ns);
    History {
        acts: vec![vec![
            act(true, sent(1, 10), sent(2, 20)),
            act(false, sent(4, 50), sent(6, 80)),
        ]],
        rounds: vec![
            round(3, 40, true, Some(State::Up), true),
            round(5, 60, false, Some(State::AdminDown), true),
            round(7, 90, false, None, false),
        ],
        changes: vec![
            mark(1),
            mark(2),
            route(false),
            mark(3),
            mark(4),
            mark(5),
            route(true),
            mark(6),
            mark(7),
        ],
        ours: OURS,
        generations: Some((1, 3)),
    }
}

fn route_left() -> History {
    let mut history = all_well();
    history.changes.swap(6, 7);
    history
}

fn route_back() -> History {
    let mut history = all_well();
    history.changes.extend([route(false), route(true)]);
    history
}

fn route_twice() -> History {
    let mut history = all_well();
    // An addition on its way at the commit is no fault; the one after the deletion is.
    history.changes.insert(6, route(false));
    history.changes.splice(8..8, [route(false), route(true)]);
    history
}

fn session_left() -> History {
    let mut history = all_well();
    history.rounds[2].sessions = look(91, Some((2, State::AdminDown)));
    history
}

fn no_session() -> History {
    let mut history = all_well();
    history.rounds[1] = round(5, 60, false, None, true);
    history
}

fn revived() -> History {
    let mut history = all_well();
    let after = &mut history.rounds[1].sessions_after;
    after.found[0].1.1 = State::Up;
    history
}

fn inserted_again() -> History {
    History {
        generations: Some((1, 4)),
        ..all_well()
    }
}

fn round(number: u32, at_ns: u64, peer: bool, state: Option<State>, route: bool) -> Round {
    let session = state.map(|state| (2, state));
    Round {
        peers: look(at_ns, peer.then_some(())),
        sessions: look(at_ns + 1, session),
        routes: look(at_ns + 2, route.then_some(())),
        sessions_after: look(at_ns + 4, session),
        mark: Mark(number),
    }
}

fn look<T>(at_ns: u64, found: Option<T>) -> Look<T> {
    Look {
        begin_ns: at_ns,
        end_ns: at_ns,
        found: found.into_iter().map(|found| (0, found)).collect(),
    }
}

fn mark(number: u32) -> Change {
    Mark(number).change()
}

fn route(gone: bool) -> Change {
    let (protocol, ifindex) = OURS;
    Change {
        read_ns: 0,
        gone,
        route: Route {
            dst: address(0),
            protocol,
            ifindex,
        },
    }
}
