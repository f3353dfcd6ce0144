//! Unit tests of a machine.

use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::Counter;
use dz_common::packet::State;
use nix::errno::Errno;

use super::*;
use crate::fixture::{NOW_NS, entry};
use crate::memory::fixture::{
    BLOCK, IFINDEX, OURS, PEER, THEIRS, frame, packet, session, settings,
};
use crate::memory::kernel::Device;

fn device(link: Link) -> Device {
    Device {
        link,
        mac: OURS,
        up: true,
    }
}

/// A machine with one session, in Down.
fn machine(link: Link, mode: AttachMode) -> Kernel {
    let mut kernel = Kernel::default();
    kernel.set_now_ns(NOW_NS);
    kernel.set_device(IFINDEX, Some(device(link)));
    kernel.attach(IFINDEX, mode).unwrap();
    let maps = kernel.make_maps(8);
    maps.set_config(settings().config(1));
    maps.beat(NOW_NS);
    let request = Request {
        op: OP_START_GROUP,
        ..Request::NONE
    };
    kernel.control(&request);
    let entry = entry(PEER);
    kernel.prepare_slot(entry.slot, entry.key, NOW_NS);
    kernel.insert_session(&entry).unwrap();
    kernel
}

/// A frame that brings the session Up.
fn said(kernel: &Kernel, link: Link) -> Vec<u8> {
    let entry = session(kernel.maps().unwrap());
    frame(&entry.key, &packet(&entry, State::Init), link)
}

fn due() -> Due {
    let entry = entry(PEER);
    crate::datapath::Order {
        key: entry.key,
        slot: entry.slot,
        generation: entry.generation,
        force: true,
        ethernet: Some((THEIRS, OURS)),
    }
    .due()
}

#[test]
fn an_answer_leaves_by_the_gate_but_from_xdp() {
    for (mode, gated) in [(AttachMode::Tc, 1), (AttachMode::Xdp, 0)] {
        let mut kernel = machine(Link::Ethernet, mode);
        let said = said(&kernel, Link::Ethernet);
        let verdict = kernel.receive(IFINDEX, &said);
        let Verdict::Answer { frame, .. } = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(kernel.take_frames(), [(IFINDEX, frame)]);
        assert_eq!(kernel.take_frames(), []);
        let counters = kernel.maps().unwrap().counters(BLOCK).unwrap();
        assert_eq!((counters.rx_answered, counters.gate_liveness), (1, gated));
    }
}

#[test]
fn without_our_programs_frames_pass() {
    let mut kernel = machine(Link::Layer3, AttachMode::Tc);
    let said = said(&kernel, Link::Layer3);
    assert_eq!(kernel.receive(IFINDEX + 1, &said), Verdict::Pass);
    kernel.detach(IFINDEX);
    assert_eq!(kernel.receive(IFINDEX, &said), Verdict::Pass);
    kernel.attach(IFINDEX, AttachMode::Tc).unwrap();
    kernel.set_device(IFINDEX, None);
    assert_eq!(kernel.attached(IFINDEX), None);
    assert_eq!(kernel.attach(IFINDEX, AttachMode::Tc), Err(Errno::ENODEV));
    assert_eq!(session(kernel.maps().unwrap()), entry(PEER));
}

#[test]
fn a_layer_3_device_strips_the_ethernet_header() {
    for (link, len) in [(Link::Layer3, 68), (Link::Ethernet, 82)] {
        let mut kernel = machine(link, AttachMode::Tc);
        let mut due = due();
        kernel.transmit(&mut due);
        assert_eq!(due.exit, Counter::TxOriginated as u32);
        let frames = kernel.take_frames();
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].0, frames[0].1.len()), (IFINDEX, len));
        let counters = kernel.maps().unwrap().counters(BLOCK).unwrap();
        assert_eq!(counters.gate_liveness, 1);
    }
}

#[test]
fn an_interface_that_is_down_or_gone_takes_nothing() {
    let mut kernel = machine(Link::Layer3, AttachMode::Tc);
    let said = said(&kernel, Link::Layer3);
    let down = Device {
        up: false,
        ..device(Link::Layer3)
    };
    for device in [Some(down), None] {
        kernel.set_device(IFINDEX, device);
        let mut due = due();
        kernel.transmit(&mut due);
        assert_eq!(due.exit, Counter::TxFailed as u32);
        kernel.receive(IFINDEX, &said);
    }
    assert_eq!(kernel.take_frames(), []);
    let entry = session(kernel.maps().unwrap());
    assert_eq!(entry.session.state, State::Down);
}

#[test]
fn memory_that_a_program_may_hold_is_not_to_be_written() {
    let mut kernel = machine(Link::Layer3, AttachMode::Tc);
    let said = said(&kernel, Link::Layer3);
    let old = entry(PEER);
    let mut new = entry([10, 0, 0, 3]);

    // As it must be: the agent waits before it uses either again.
    let number = kernel.begin(IFINDEX, &said).unwrap();
    kernel.loaded().delete_session(&old.key);
    kernel.wait_for_programs();
    assert_eq!(kernel.running().count(), 0);
    assert_eq!(kernel.finish(number), Verdict::Drop, "ended already");
    kernel.prepare_slot(new.slot, new.key, NOW_NS);
    kernel.insert_session(&new).unwrap();
    assert_eq!(kernel.overwritten(), 0);

    // As it must not be.
    kernel.loaded().delete_session(&new.key);
    kernel.insert_session(&old).unwrap();
    kernel.begin(IFINDEX, &said).unwrap();
    kernel.loaded().delete_session(&old.key);
    new.slot = 1;
    kernel.insert_session(&new).unwrap();
    assert_eq!(kernel.overwritten(), 1);
    kernel.prepare_slot(old.slot, new.key, NOW_NS);
    assert_eq!(kernel.overwritten(), 2);
}

#[test]
fn the_kernel_part_goes_as_a_whole() {
    let mut kernel = machine(Link::Layer3, AttachMode::Tc);
    assert!(kernel.next_timer_ns().is_some());
    kernel.unload();
    assert!(kernel.maps().is_none());
    assert_eq!(kernel.next_timer_ns(), None);
    assert_eq!(kernel.attached(IFINDEX), None);
    kernel.run_timers();
    let maps = kernel.make_maps(8);
    assert_eq!(maps.sessions().iter().count(), 0);
}
