//! Sessions that go Down too often are held, whatever happens meanwhile.

use dz_common::LIVENESS_PORT;
use dz_common::headers::{DATAGRAM_LEN, Marks, UdpChecksum, write};
use dz_common::map::HELD_DAMPED;
use dz_common::packet::{Packet, State, Version};

use super::{Machine, Process, SECOND, connected};
use crate::engine::turn::Turn;
use crate::memory::Call;

impl Machine {
    /// A packet of the peer's comes in, which says that it is in a state.
    fn hears(&self, state: State) {
        let entry = self.session().unwrap();
        let packet = Packet {
            state,
            detect_mult: 3,
            my_discr: 0x5678,
            your_discr: entry.session.local_discr,
            desired_min_tx_us: 1_000_000,
            required_min_rx_us: 1_000_000,
            passive: false,
            version: Version::new([1, 0, 0, 0]),
            reserved_set: false,
        };
        let marks = Marks {
            port: LIVENESS_PORT,
            tos: 0xc0,
            ttl: 64,
        };
        let mut frame = [0; DATAGRAM_LEN];
        let (from, to) = (&entry.key.peer, &entry.key.local);
        write(&mut frame, from, to, marks, &packet, UdpChecksum::Full);
        self.kernel.borrow_mut().receive(self.ifindex, &frame);
    }
}

/// The peer goes down and comes back, so many times; then it stays Up for ten minutes.
fn flap(machine: &Machine, process: &mut Process, times: usize) {
    for _ in 0..times {
        for (said, state) in [(State::AdminDown, State::Down), (State::Up, State::Up)] {
            machine.pass(SECOND / 10);
            machine.hears(said);
            assert_eq!(machine.session().unwrap().session.state, state);
            process.settle();
        }
    }
    machine.come_up(600 * SECOND);
    process.check();
}

fn held() -> (Machine, Process) {
    let (machine, mut process) = connected();
    flap(&machine, &mut process, 5);
    assert!(machine.has_route(), "five are borne");
    flap(&machine, &mut process, 1);
    (machine, process)
}

fn waits(machine: &Machine, process: &mut Process, ns: u64) {
    machine.pass(ns);
    process.take(Turn::Due);
    process.settle();
}

#[test]
fn a_session_that_is_held_has_no_route_although_it_is_up() {
    let (machine, mut process) = held();
    let entry = machine.session().unwrap();
    assert_eq!((entry.session.state, entry.held), (State::Up, HELD_DAMPED));
    assert!(!machine.has_route());
    process.check();
    assert!(!machine.has_route(), "a full check changes nothing");
    assert_eq!(process.engine.shared.holds().len(), 1);
    // The hold began half a second ago at most.
    assert!(process.engine.due_ns().is_some());
    waits(&machine, &mut process, 5 * SECOND);
    assert_eq!(machine.session().unwrap().held, 0);
    assert!(machine.has_route());
    assert!(process.engine.shared.holds().is_empty());
}

#[test]
fn a_session_is_let_go_although_the_kernel_refuses_at_first() {
    let (machine, mut process) = held();
    machine.refuse(1, |call| matches!(call, Call::Control(..)));
    waits(&machine, &mut process, 5 * SECOND);
    assert_eq!(machine.session().unwrap().held, HELD_DAMPED);
    assert!(!machine.has_route(), "what the gate keeps out has no route");
    process.check();
    assert_eq!(machine.session().unwrap().held, 0);
    assert!(machine.has_route());
}

#[test]
fn a_session_is_held_although_the_kernel_refuses_at_first() {
    let (machine, mut process) = connected();
    flap(&machine, &mut process, 5);
    machine.refuse(1, |call| matches!(call, Call::Control(..)));
    flap(&machine, &mut process, 1);
    assert_eq!(machine.session().unwrap().held, HELD_DAMPED);
    assert!(!machine.has_route());
}

#[test]
fn a_disconnect_does_not_wait_for_the_end_of_a_hold() {
    let (machine, mut process) = held();
    let mut reply = process.disconnect();
    process.let_pass(&machine);
    reply.try_recv().unwrap().unwrap();
    assert!(machine.session().is_none() && !machine.has_route());
    assert!(process.engine.shared.holds().is_empty());
    // Who is connected anew has no past.
    process.connect().try_recv().unwrap().unwrap();
    machine.come_up(600 * SECOND);
    process.check();
    assert_eq!(machine.session().unwrap().held, 0);
    assert!(machine.has_route());
}

#[test]
fn an_agent_lets_go_what_an_earlier_one_held() {
    let (machine, process) = held();
    drop(process);
    machine.pass(100 * SECOND);
    let mut process = machine.start();
    machine.come_up(600 * SECOND);
    process.check();
    assert_eq!(
        machine.session().unwrap().held,
        HELD_DAMPED,
        "once more, for 5 s"
    );
    assert!(!machine.has_route());
    waits(&machine, &mut process, 5 * SECOND);
    assert_eq!(machine.session().unwrap().held, 0);
    assert!(machine.has_route());
}
