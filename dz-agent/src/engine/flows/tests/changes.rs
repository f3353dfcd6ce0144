//! Changes around a session: addresses that go, notifications that are lost, next hops, timers.

use std::net::Ipv4Addr;

use dz_common::counters::Counters;
use dz_common::map::{LocalKey, Origin, Peer};
use dz_common::packet::State;
use dz_common::session::Timers;

use super::{LOCAL, MAC, Machine, NAME, PEER, SECOND, connected, connected_for, finish};
use crate::engine::state::keys::peer_key;
use crate::engine::state::wants::Configured;
use crate::engine::turn::Turn;
use crate::memory::Call;
use crate::memory::net::{Author, MAIN, Shape, Which};
use crate::net::links::Address;
use crate::settings::{PeerSpec, Policy};

const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Machine {
    /// Deletes an address of the served interface.
    pub(super) fn take_address(&self, local: Ipv4Addr, prefix_len: u8) {
        let mut net = self.net.borrow_mut();
        let address = Address::plain(local, prefix_len);
        net.delete_address(self.ifindex, &address).unwrap();
    }

    /// Returns the local addresses in `dz_locals`.
    fn locals(&self) -> Vec<Ipv4Addr> {
        let kernel = self.kernel.borrow();
        let locals = kernel.maps().unwrap().locals();
        locals.map(|(key, _)| key.addr.into()).collect()
    }
}

#[test]
fn a_gone_address_is_not_spoken_from_for_a_moment() {
    let (machine, mut process) = connected();
    let _reply = process.disconnect();
    assert!(!machine.frames().is_empty(), "the first farewell");
    machine.take_address(LOCAL, 32);
    process.hear(&machine);
    // Before the full check has read the interface.
    machine.pass(SECOND / 10);
    process.engine.say_farewells();
    assert!(machine.frames().is_empty());
    process.let_pass(&machine);
    assert!(machine.frames().is_empty() && machine.session().is_none());
}

#[test]
fn an_address_does_not_begin_with_the_counts_of_another() {
    let (machine, mut process) = connected();
    let block = machine.session().unwrap().block;
    let counted = || {
        let kernel = machine.kernel.borrow();
        kernel.maps().unwrap().counters(block).unwrap()
    };
    assert_ne!(counted(), Counters::default(), "what was sent");
    let _reply = process.disconnect();
    machine.take_address(LOCAL, 32);
    process.hear(&machine);
    process.let_pass(&machine);
    assert!(machine.session().is_none() && machine.locals().is_empty());
    assert_ne!(counted(), Counters::default(), "it may come back");
    drop(process);
    let other = Ipv4Addr::new(10, 0, 0, 9);
    let address = Address::plain(other, 32);
    let added = machine
        .net
        .borrow_mut()
        .add_address(machine.ifindex, address);
    added.unwrap();
    let _process = machine.start();
    let kernel = machine.kernel.borrow();
    let locals: Vec<_> = kernel.maps().unwrap().locals().collect();
    let key = LocalKey {
        ifindex: machine.ifindex,
        addr: other.octets(),
    };
    assert_eq!(locals, [(&key, &block)], "nobody has it any more");
    drop(kernel);
    assert_eq!(counted(), Counters::default());
}

#[test]
fn the_programs_know_the_addresses_that_there_are() {
    let (machine, mut process) = connected();
    assert_eq!(machine.locals(), [LOCAL]);
    machine.take_address(LOCAL, 32);
    process.hear(&machine);
    process.let_pass(&machine);
    assert!(machine.locals().is_empty());
}

#[test]
fn a_borrowed_address_is_given_back() {
    let public = Ipv4Addr::new(198, 51, 100, 7);
    let machine = Machine::new();
    let nic = machine
        .net
        .borrow_mut()
        .create_link("eth0", Shape::nic(MAC))
        .unwrap();
    machine.net.borrow_mut().set_up(nic, true).unwrap();
    machine
        .net
        .borrow_mut()
        .add_address(nic, Address::plain(public, 24))
        .unwrap();
    let mut process = machine.start();
    process
        .connect_as(PeerSpec::new(PEER, public))
        .try_recv()
        .unwrap()
        .unwrap();
    assert_eq!(machine.locals(), [LOCAL, public]);
    machine
        .net
        .borrow_mut()
        .delete_address(nic, &Address::plain(public, 24))
        .unwrap();
    process.hear(&machine);
    process.let_pass(&machine);
    assert_eq!(machine.locals(), [LOCAL]);
}

#[test]
fn what_lost_notifications_were_about_is_found_soon() {
    let (machine, mut process) = connected();
    let which = Which::to(MAIN, PEER, 32);
    machine
        .net
        .borrow_mut()
        .delete_entry(Author::Other(7), &which)
        .unwrap();
    machine.net.borrow_mut().lose_events();
    process.hear(&machine);
    assert!(!machine.has_route());
    process.let_pass(&machine);
    assert!(machine.has_route());
}

/// Makes a machine with a session whose next hop is being resolved.
fn unresolved() -> (Machine, super::Process) {
    let machine = Machine::ethernet();
    let mut process = machine.start();
    process.connect().try_recv().unwrap().unwrap();
    process.settle();
    assert!(machine.frames().is_empty(), "nobody knows where to");
    assert_eq!(machine.net.borrow().resolving(), [(machine.ifindex, PEER)]);
    (machine, process)
}

#[test]
fn who_waits_for_a_next_hop_speaks_as_soon_as_it_is_resolved() {
    let (machine, mut process) = unresolved();
    machine
        .net
        .borrow_mut()
        .answer_for(machine.ifindex, PEER, Some(THEIRS));
    process.hear(&machine);
    process.take(Turn::Due);
    let frames = machine.frames();
    assert!(frames.len() == 1 && frames[0].1.starts_with(&THEIRS));
}

#[test]
fn next_hops_are_read_again_when_notifications_were_lost() {
    let (machine, mut process) = unresolved();
    machine
        .net
        .borrow_mut()
        .answer_for(machine.ifindex, PEER, Some(THEIRS));
    machine.net.borrow_mut().lose_events();
    process.hear(&machine);
    // Long before the kernel is asked about it again.
    machine.pass(SECOND / 100);
    process.take(Turn::Due);
    process.settle();
    process.take(Turn::Due);
    assert_eq!(machine.frames().len(), 1);
}

#[test]
fn a_peer_is_told_of_a_timeout_at_once_and_the_route_goes() {
    let (machine, mut process) = connected_for(SECOND / 4);
    machine.frames();
    // Long before our clock would look at it.
    machine.pass(SECOND / 2);
    assert_eq!(machine.session().unwrap().session.state, State::Down);
    process.settle();
    assert_eq!(machine.frames().len(), 1, "told by our clock");
    assert!(!machine.has_route());
}

#[test]
fn what_is_told_of_an_earlier_session_is_not_believed_of_the_next() {
    let (machine, mut process) = connected_for(SECOND);
    machine.pass(2 * SECOND);
    // The agent has not read yet that the session went Down.
    let mut reply = process.disconnect();
    for _ in 0..20 {
        process.settle_unreported();
        machine.pass(SECOND / 10);
        process.take(Turn::Due);
    }
    assert!(reply.try_recv().unwrap().is_ok());
    process.connect().try_recv().unwrap().unwrap();
    process.settle_unreported();
    finish(
        &process.handle,
        &process.requests,
        process.engine.reported(),
    );
    assert!(!process.engine.jobs.is_asking(), "its route is left alone");
}

#[test]
fn who_waits_for_a_next_hop_does_not_wait_when_the_address_is_gone() {
    let (machine, mut process) = unresolved();
    let mut reply = process.disconnect();
    process.settle();
    assert!(machine.session().is_some() && reply.try_recv().is_err());
    machine.take_address(LOCAL, 24);
    process.hear(&machine);
    process.settle();
    assert!(machine.session().is_none() && reply.try_recv().unwrap().is_ok());
}

#[test]
fn a_route_does_not_follow_a_session_from_another_address_than_the_peer_is_to_have() {
    let (machine, mut process) = connected();
    let other = Ipv4Addr::new(10, 0, 0, 9);
    machine
        .net
        .borrow_mut()
        .add_address(machine.ifindex, Address::plain(other, 32))
        .unwrap();
    {
        let mut kernel = machine.kernel.borrow_mut();
        let maps = kernel.maps_mut().unwrap();
        let key = peer_key(NAME, PEER);
        let local = other.octets();
        let peer = Peer {
            local,
            ..*maps.peer(&key).unwrap()
        };
        maps.set_peer(&key, &peer).unwrap();
    }
    // The route goes even while the kernel refuses to end the session.
    machine.refuse(1, |call| matches!(call, Call::Control(..)));
    process.check();
    assert!(machine.session().is_some() && !machine.has_route());
}

#[test]
fn events_that_were_read_are_not_missing() {
    let (machine, mut process) = connected_for(SECOND);
    machine.pass(2 * SECOND);
    process.settle();
    let now_ns = machine.kernel.borrow().now_ns();
    process.engine.beat(now_ns);
    assert!(
        !process.engine.checks.is_reading(),
        "nothing is to be read again"
    );
}

#[test]
fn a_peer_with_other_timers_gets_them() {
    let machine = Machine::new();
    let mut process = machine.start();
    for detect_mult in [3, 5] {
        let peer = Peer {
            local: LOCAL.octets(),
            via: [0; 4],
            timers: Timers {
                detect_mult,
                ..Timers::DEFAULT
            },
            origin: Origin::Config,
            left_out: 0,
            reserved: [0; 2],
        };
        let configured = Configured::from_iter([(peer_key(NAME, PEER), peer)]);
        process
            .engine
            .wants
            .configure(configured, Policy::default());
        process.engine.settle_all();
        process.settle();
        process.let_pass(&machine);
        let session = machine.session().expect("a session").session;
        assert_eq!(session.timers.detect_mult, detect_mult);
        assert_ne!(session.state, State::AdminDown);
    }
}
