//! What is read while the engine goes on may be older than what it knows when it decides.

use std::net::Ipv4Addr;

use dz_common::packet::State;
use futures_util::FutureExt;

use super::{LOCAL, Machine, Process, SECOND, connected};
use crate::engine::turn::Turn;
use crate::net::links::Address;
use crate::settings::PeerSpec;

/// An address that no peer uses.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

impl Process {
    /// Begins a full check, and carries out so many of its requests to the kernel.
    fn begin_check(&mut self, requests: u32) {
        self.engine.begin_check();
        for _ in 0..requests {
            // Asks when it is polled.
            assert!(self.engine.answered().now_or_never().is_none());
            assert!(self.requests.carry_out());
        }
        assert!(self.engine.checks.is_reading());
    }

    fn holds(&self, address: Ipv4Addr) -> bool {
        self.engine.interfaces.host_addresses().is_held(address)
    }
}

impl Machine {
    fn give_address(&self, local: Ipv4Addr, prefix_len: u8) {
        let mut net = self.net.borrow_mut();
        let address = Address::plain(local, prefix_len);
        net.add_address(self.ifindex, address).unwrap();
    }
}

#[test]
fn a_full_check_that_waits_for_links_stops_nothing() {
    let (machine, mut process) = connected();
    process.begin_check(0);
    let peer = Ipv4Addr::new(10, 0, 0, 7);
    let mut reply = process.connect_as(PeerSpec::new(peer, LOCAL));
    // `connect_as` carries out whatever is asked for, and nothing had to be.
    assert!(reply.try_recv().unwrap().is_ok());
    machine.pass(SECOND);
    process.engine.tick();
    assert!(!machine.frames().is_empty(), "our clock stands still");
    assert!(process.engine.checks.is_reading());
    process.settle();
    assert!(!process.engine.checks.is_reading() && machine.has_route());
}

#[test]
fn notifications_count_after_what_was_read_before_them() {
    let nic = |machine: &Machine| {
        let mut net = machine.net.borrow_mut();
        let shape = crate::memory::net::Shape::nic([2, 0, 0, 0, 0, 9]);
        net.create_link("eth9", shape).unwrap()
    };
    for (before, after) in [(false, true), (true, false)] {
        let (machine, mut process) = connected();
        let ifindex = nic(&machine);
        process.hear(&machine);
        process.let_pass(&machine);
        let change = |there: bool| {
            let mut net = machine.net.borrow_mut();
            let address = Address::plain(OTHER, 24);
            match there {
                true => net.add_address(ifindex, address).unwrap(),
                false => net.delete_address(ifindex, &address).unwrap(),
            }
        };
        if before {
            change(true);
            process.hear(&machine);
            process.let_pass(&machine);
        }
        assert_eq!(process.holds(OTHER), before);
        // Links and addresses.
        process.begin_check(2);
        change(after);
        process.hear(&machine);
        process.settle();
        assert!(!process.engine.checks.is_reading());
        assert_eq!(process.holds(OTHER), after);
    }
}

#[test]
fn what_was_read_before_a_change_that_matters_is_not_used() {
    let (machine, mut process) = connected();
    machine.take_address(LOCAL, 32);
    // Its notification is still to be read when the addresses are.
    process.begin_check(2);
    machine.give_address(LOCAL, 32);
    process.hear(&machine);
    process.settle();
    process.let_pass(&machine);
    assert_eq!(machine.session().unwrap().session.state, State::Up);
    assert!(machine.has_route());
}

#[test]
fn a_look_around_waits_for_a_full_check_and_happens() {
    let (machine, mut process) = connected();
    process.begin_check(1);
    let now_ns = machine.kernel.borrow().now_ns();
    process.engine.agenda.look_around_soon(now_ns);
    machine.pass(SECOND / 100);
    // As the loop does, without carrying out what the check asks for.
    assert!(process.engine.take_turn(Turn::Due).now_or_never().is_some());
    assert!(process.engine.checks.is_checking());
    process.settle();
    machine.pass(SECOND / 100);
    assert!(process.engine.take_turn(Turn::Due).now_or_never().is_some());
    assert!(process.engine.checks.is_reading() && !process.engine.checks.is_checking());
    process.settle();
    assert_eq!(process.engine.agenda.next_ns(), None);
}
