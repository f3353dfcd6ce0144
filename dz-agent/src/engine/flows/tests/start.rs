//! What a start changes that fails.

use super::*;
use crate::memory::Ask;

#[test]
fn a_start_that_fails_changes_nothing() {
    let kinds: [fn(&Call) -> bool; 6] = [
        |call| matches!(call, Call::MakeMaps),
        |call| matches!(call, Call::ReadSessions),
        |call| matches!(call, Call::ReadLocals),
        |call| matches!(call, Call::Ask(Ask::Links)),
        |call| matches!(call, Call::Control(..)),
        |call| matches!(call, Call::Attach(_)),
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let (machine, process) = connected();
        drop(process);
        let beat_ns = |machine: &Machine| machine.kernel.borrow().maps().unwrap().beat_ns();
        let (session, beaten_ns) = (machine.session(), beat_ns(&machine));
        machine.pass(SECOND);
        machine.refuse(1, kind);
        assert!(machine.try_start().is_err(), "{number}");
        assert_eq!(machine.session(), session, "{number}");
        assert_eq!(beat_ns(&machine), beaten_ns, "{number}: a heartbeat");
        let kernel = machine.kernel.borrow();
        assert!(kernel.attached(machine.ifindex).is_some(), "{number}");
        drop(kernel);
        assert!(machine.has_route(), "{number}");
        // The next one goes on.
        machine.start();
        assert!(beat_ns(&machine) > beaten_ns && machine.has_route());
    }
}

#[test]
fn a_first_start_that_fails_leaves_no_program() {
    let machine = Machine::new();
    machine.refuse(1, |call| matches!(call, Call::Control(..)));
    assert!(machine.try_start().is_err());
    let kernel = machine.kernel.borrow();
    assert!(kernel.attached(machine.ifindex).is_none());
}
