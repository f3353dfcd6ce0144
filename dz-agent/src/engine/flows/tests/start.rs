//! What a start changes that fails, and what it makes of entries that are no use.

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

#[test]
fn a_session_that_cannot_be_served_costs_itself() {
    let (machine, mut process) = connected();
    let good = machine.session().unwrap();
    let spoil = || {
        for (last, slot) in [(9, u32::MAX), (8, good.slot)] {
            let mut bad = good;
            bad.key.peer[3] = last;
            bad.slot = slot;
            bad.generation = 0;
            let mut kernel = machine.kernel.borrow_mut();
            let maps = kernel.maps_mut().unwrap();
            maps.put_session(&bad.key, &bad).unwrap();
        }
    };
    let all = || {
        let kernel = machine.kernel.borrow();
        let sessions = kernel.maps().unwrap().sessions();
        let entries = sessions.iter().map(|(_, entry)| entry);
        entries
            .map(|entry| (entry.key, entry.generation))
            .collect::<Vec<_>>()
    };
    spoil();
    process.check();
    assert_eq!(all(), [(good.key, good.generation)]);
    drop(process);
    spoil();
    let mut process = machine.start();
    assert_eq!(all(), [(good.key, good.generation)]);
    assert!(machine.has_route());
    // Its slot is not given to another one.
    process.disconnect();
    process.let_pass(&machine);
    assert_eq!(all(), []);
}
