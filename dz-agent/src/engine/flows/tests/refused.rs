//! The flows where the kernel refuses a call, once or for a while.

use super::{Machine, SECOND, connected, finish};
use crate::memory::Call;

#[test]
fn a_withdrawal_goes_on_when_the_kernel_refuses_for_a_while() {
    for refused in [1, 2, 5] {
        let (machine, mut process) = connected();
        machine.refuse(refused, |call| matches!(call, Call::Control(..)));
        process.engine.begin_withdrawal();
        for _ in 0..100 {
            assert!(process.engine.is_withdrawing() || !machine.has_peer());
            process.settle();
            machine.pass(SECOND / 10);
            process.engine.advance_withdrawal();
        }
        assert!(!process.engine.is_withdrawing());
        finish(
            &process.handle,
            &process.requests,
            process.engine.end_withdrawal(),
        )
        .unwrap();
        assert!(!machine.has_route() && machine.session().is_none());
    }
}

#[test]
fn a_connect_that_fails_leaves_nothing() {
    let machine = Machine::new();
    let mut process = machine.start();
    machine.refuse(1, |call| matches!(call, Call::InsertSession(_)));
    assert!(process.connect().try_recv().unwrap().is_err());
    process.let_pass(&machine);
    assert!(!machine.has_peer() && machine.session().is_none());
    process.connect().try_recv().unwrap().unwrap();
    assert!(machine.has_peer() && machine.session().is_some());
}

#[test]
fn a_route_that_is_refused_is_asked_for_again_soon() {
    let machine = Machine::new();
    let mut process = machine.start();
    process.connect().try_recv().unwrap().unwrap();
    machine.come_up(600 * SECOND);
    machine.refuse(2, |call| matches!(call, Call::AddRoute(..)));
    process.check();
    assert!(!machine.has_route());
    process.let_pass(&machine);
    assert!(machine.has_route());
}

#[test]
fn a_session_whose_end_is_refused_stays_until_a_check_ends_it() {
    let (machine, mut process) = connected();
    machine.take_address(super::LOCAL, 32);
    machine.refuse(1, |call| matches!(call, Call::Control(..)));
    process.check();
    process.let_pass(&machine);
    assert!(machine.session().is_some(), "it was not in AdminDown");
    process.check();
    process.let_pass(&machine);
    assert!(machine.session().is_none() && !machine.has_route());
}

#[test]
fn a_session_that_is_not_deleted_is_deleted_soon() {
    let (machine, mut process) = connected();
    machine.refuse(2, |call| matches!(call, Call::DeleteSession(_)));
    let mut reply = process.disconnect();
    process.let_pass(&machine);
    assert!(reply.try_recv().unwrap().is_err(), "who waits is told");
    assert!(machine.session().is_none() && !machine.has_route());
}
