//! Unit tests: what a process asks for, one that dies, and two that speak with each other.

use std::rc::Rc;

use dz_common::control::OP_DISCONNECT;
use dz_common::ingress::Link;
use dz_common::packet::State;
use dz_common::session::DownReason;
use nix::errno::Errno;

use super::*;
use crate::datapath::AttachMode;
use crate::fixture::{NOW_NS, entry};
use crate::memory::fixture::{IFINDEX, OURS, PEER, settings};
use crate::memory::kernel::Device;

/// A machine with an agent on it.
fn agent() -> Handle {
    let kernel = Kernel::shared();
    let handle = Handle::new(&kernel);
    {
        let mut kernel = kernel.borrow_mut();
        kernel.set_now_ns(NOW_NS);
        let device = Device {
            link: Link::Layer3,
            mac: OURS,
            up: true,
        };
        kernel.set_device(IFINDEX, Some(device));
    }
    handle.load(&settings()).unwrap();
    handle.start_timers().unwrap();
    handle.attach(IFINDEX, AttachMode::Tc).unwrap();
    handle.configure(&settings());
    handle
}

/// Inserts a session.
fn open(handle: &mut Handle, entry: &SessionEntry) -> Result<(), MapError> {
    handle.prepare_slot(entry.slot, entry.key, handle.now_ns());
    handle.insert_session(entry)
}

fn order(entry: &SessionEntry, force: bool) -> Order {
    Order {
        key: entry.key,
        slot: entry.slot,
        generation: entry.generation,
        force,
        ethernet: None,
    }
}

fn disconnect(entry: &SessionEntry) -> Request {
    Request {
        op: OP_DISCONNECT,
        key: entry.key,
        generation: entry.generation,
        ..Request::NONE
    }
}

#[test]
fn what_a_dead_agent_does_changes_nothing() {
    let mut dead = agent();
    let before = dead.effects();
    assert_eq!(
        before, 4,
        "maps made, a timer started, attached, configured"
    );
    let entry = entry(PEER);
    dead.die_after(before + 2);
    open(&mut dead, &entry).unwrap();
    assert!(!dead.is_alive());
    assert_eq!(dead.effects(), before + 2);

    let exit = dead.control(&disconnect(&entry)).unwrap();
    assert_eq!(exit, Counter::ControlDone, "as if it had been");
    dead.delete_session(&entry.key).unwrap();
    dead.beat(NOW_NS + 1);
    let mut outcomes = Vec::new();
    dead.transmit(&[order(&entry, true)], |_, outcome| outcomes.push(outcome))
        .unwrap();
    assert_eq!(outcomes[0].exit, Some(Counter::TxOriginated));
    assert!(dead.kernel().borrow_mut().take_frames().is_empty());
    assert_eq!(dead.effects(), before + 2);

    // What the kernel has stays, for the next one.
    let next = Handle::new(dead.kernel());
    next.load(&settings()).unwrap();
    assert_eq!(next.sessions().unwrap(), [entry]);
    assert_eq!(next.kernel().borrow().maps().unwrap().beat_ns(), NOW_NS);
    assert!(next.is_alive());
}

#[test]
fn an_agent_may_die_while_it_loads() {
    let kernel = Kernel::shared();
    for effects in 0..4 {
        let handle = Handle::new(&kernel);
        handle.die_after(effects);
        handle.load(&settings()).unwrap();
        if effects > 0 {
            handle.start_timers().unwrap();
            handle.configure(&settings());
        }
        assert_eq!(handle.effects(), effects.min(3));
    }
    assert_eq!(kernel.borrow().maps().unwrap().slots(), SLOTS_PER_GROUP);
}

#[test]
fn calls_fail_as_they_are_told_to_and_count_for_nothing() {
    let mut handle = agent();
    let entry = entry(PEER);
    let before = handle.effects();
    let refuse = |call: &Call| match call {
        Call::InsertSession(_) | Call::DeleteSession(_) => Some(Errno::EBUSY),
        Call::Control(..) | Call::Transmit(_) => Some(Errno::EINTR),
        Call::ReadSessions => Some(Errno::ENOMEM),
        _ => None,
    };
    let kernel = Rc::clone(handle.kernel());
    kernel.borrow_mut().set_refuse(Some(Box::new(refuse)));
    let error = handle.insert_session(&entry).unwrap_err().to_string();
    assert!(error.contains("bpf_map_update_elem"), "{error}");
    assert!(handle.delete_session(&entry.key).is_err());
    assert!(matches!(handle.sessions(), Err(MapError::Batch(_))));
    let error = handle.control(&disconnect(&entry)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINTR));
    let asked = handle.transmit(&[order(&entry, false)], |_, _| panic!("not run"));
    assert!(asked.is_err());
    assert_eq!(handle.effects(), before);

    kernel.borrow_mut().set_refuse(None);
    open(&mut handle, &entry).unwrap();
    handle.delete_session(&entry.key).unwrap();
    handle.delete_session(&entry.key).unwrap();
}

#[test]
fn orders_have_their_outcomes_in_their_order() {
    let mut handle = agent();
    let entry = entry(PEER);
    open(&mut handle, &entry).unwrap();
    let gone = Order {
        generation: 99,
        ..order(&entry, true)
    };
    let mut orders = vec![gone; 299];
    orders.push(order(&entry, true));
    let before = handle.effects();
    let mut exits = Vec::new();
    handle
        .transmit(&orders, |_, outcome| exits.push(outcome.exit))
        .unwrap();
    assert_eq!(handle.effects(), before + 2, "256 fit into a run");
    let (last, others) = exits.split_last().unwrap();
    assert_eq!(*last, Some(Counter::TxOriginated));
    assert!(
        others
            .iter()
            .all(|exit| *exit == Some(Counter::TxNoSession))
    );
    assert_eq!(others.len(), 299);
}

/// Two machines with a session to each other.
fn pair() -> [Handle; 2] {
    let [a, b] = [(1_u8, 2_u8), (2, 1)].map(|(ours, theirs)| {
        let mut handle = agent();
        let mut entry = entry([10, 0, 0, theirs]);
        entry.key.local = [10, 0, 0, ours];
        entry.session.local_discr = u32::from(ours) + 0x1000;
        open(&mut handle, &entry).unwrap();
        handle
    });
    [a, b]
}

/// Lets time pass, with every frame delivered at once if `wired`.
fn pass(handles: &mut [Handle; 2], until_ns: u64, wired: bool) {
    const STEP_NS: u64 = 10_000_000;
    let mut now_ns = handles[0].now_ns();
    while now_ns < until_ns {
        now_ns += STEP_NS;
        for handle in handles.iter_mut() {
            handle.kernel().borrow_mut().set_now_ns(now_ns);
            handle.kernel().borrow_mut().run_timers();
            handle.beat(now_ns);
            let sessions = handle.sessions().unwrap();
            let due = sessions.iter().filter(|entry| {
                let later = handle.not_due_before(entry.slot, now_ns);
                later.is_none()
            });
            let orders: Vec<_> = due.map(|entry| order(entry, false)).collect();
            handle.transmit(&orders, |_, _| ()).unwrap();
        }
        for _ in 0..4 {
            for [from, to] in [[0, 1], [1, 0]] {
                let frames = handles[from].kernel().borrow_mut().take_frames();
                for (ifindex, frame) in frames.into_iter().filter(|_| wired) {
                    handles[to].kernel().borrow_mut().receive(ifindex, &frame);
                }
            }
        }
    }
}

fn states(handles: &[Handle; 2]) -> [State; 2] {
    let state = |handle: &Handle| handle.sessions().unwrap()[0].session.state;
    [state(&handles[0]), state(&handles[1])]
}

#[test]
fn two_machines_come_up_and_notice_that_the_wire_is_cut() {
    let mut handles = pair();
    pass(&mut handles, NOW_NS + 3_000_000_000, true);
    assert_eq!(states(&handles), [State::Up; 2]);
    pass(&mut handles, NOW_NS + 60_000_000_000, true);
    assert_eq!(states(&handles), [State::Up; 2]);
    for handle in &mut handles {
        let mut last = None;
        while let Some(event) = handle.next_event() {
            last = Some(event.unwrap());
        }
        assert_eq!(last.unwrap().to, State::Up);
        let counters = handle.counters(1).unwrap();
        let sent = counters.rx_answered + counters.tx_originated;
        assert!((57..=85).contains(&sent), "{sent} packets in a minute");
    }

    pass(&mut handles, NOW_NS + 64_000_000_000, false);
    assert_eq!(states(&handles), [State::Down; 2]);
    for handle in &mut handles {
        let event = handle.next_event().unwrap().unwrap();
        assert_eq!((event.to, event.reason), (State::Down, DownReason::Timeout));
        assert_eq!(handle.counters(0).unwrap().timer_failed, 0);
    }
    pass(&mut handles, NOW_NS + 75_000_000_000, true);
    assert_eq!(states(&handles), [State::Up; 2]);
}
