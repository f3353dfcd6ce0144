//! The order of the transaction's steps, and what a kill after each single effect leaves.

use dz_common::packet::State;

use super::{Machine, SECOND, connected};
use crate::engine::turn::Turn;

/// More effects than any part of the transaction has.
const MANY: u64 = 60;

#[test]
fn a_connect_is_answered_when_peer_and_session_are_there() {
    let machine = Machine::new();
    let mut process = machine.start();
    let mut reply = process.connect();
    assert!(reply.try_recv().unwrap().is_ok());
    assert!(machine.has_peer() && !machine.has_route());
    assert_eq!(machine.session().unwrap().session.state, State::Down);
    assert_eq!(
        machine.kernel.borrow_mut().take_frames().len(),
        1,
        "told at once"
    );
}

#[test]
fn a_disconnect_takes_the_peer_then_the_route_then_the_session() {
    let (machine, mut process) = connected();
    let mut reply = process.disconnect();
    // D1 and D2: the peer is gone and told; the deletion of the route has been asked for.
    assert!(!machine.has_peer() && machine.has_route());
    assert_eq!(machine.session().unwrap().session.state, State::AdminDown);
    assert!(!machine.kernel.borrow_mut().take_frames().is_empty());
    assert!(reply.try_recv().is_err(), "not before the route is gone");
    process.settle();
    assert!(!machine.has_route() && machine.session().is_some(), "D3");
    process.let_pass(&machine);
    assert!(machine.session().is_none(), "D4");
    assert!(reply.try_recv().unwrap().is_ok());
}

#[test]
fn a_session_outlives_its_route_however_long_that_takes() {
    let (machine, mut process) = connected();
    let mut reply = process.disconnect();
    for _ in 0..20 {
        machine.pass(SECOND / 10);
        process.take(Turn::Due);
    }
    assert!(machine.has_route(), "nobody has carried its deletion out");
    assert!(machine.session().is_some() && reply.try_recv().is_err());
    process.settle();
    assert!(!machine.has_route() && machine.session().is_none());
    assert!(reply.try_recv().unwrap().is_ok());
}

#[test]
fn whatever_effect_a_disconnect_dies_after_the_next_start_ends_it_or_it_never_began() {
    let mut ended = 0;
    for effects in 0..MANY {
        let (machine, mut process) = connected();
        process.handle.die_after(process.handle.effects() + effects);
        let mut reply = process.disconnect();
        process.settle();
        process.let_pass(&machine);
        let answered = reply.try_recv().is_ok();
        let begun = !machine.has_peer();
        let lived = process.handle.is_alive();
        // A route never outlives its session.
        assert!(!machine.has_route() || machine.session().is_some());
        drop(process);
        machine.net.borrow_mut().unsubscribe();
        let mut next = machine.start();
        next.check();
        next.let_pass(&machine);
        if begun {
            let left = (
                machine.has_peer(),
                machine.session().is_some(),
                machine.has_route(),
            );
            assert_eq!(left, (false, false, false), "after {effects} effects");
        } else {
            assert!(!lived || effects == 0, "after {effects} effects");
            assert!(machine.has_peer() && machine.session().is_some() && machine.has_route());
        }
        ended += u32::from(lived && answered);
    }
    assert!(ended > 0, "{MANY} effects are not enough");
}

#[test]
fn whatever_effect_a_connect_dies_after_the_next_start_has_all_of_it_or_nothing() {
    let mut whole = 0;
    for effects in 0..MANY {
        let machine = Machine::new();
        let mut process = machine.start();
        process.handle.die_after(process.handle.effects() + effects);
        let mut reply = process.connect();
        let lived = process.handle.is_alive();
        let answered = reply.try_recv().is_ok();
        drop(process);
        machine.net.borrow_mut().unsubscribe();
        let mut next = machine.start();
        next.check();
        assert_eq!(
            machine.has_peer(),
            machine.session().is_some(),
            "after {effects} effects"
        );
        assert!(!machine.has_route());
        if lived && answered {
            assert!(machine.has_peer());
            whole += 1;
        }
    }
    assert!(whole > 0, "{MANY} effects are not enough");
}
