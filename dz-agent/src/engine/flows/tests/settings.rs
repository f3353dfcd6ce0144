//! Settings that differ from those of the agent before.

use dz_common::map::{Origin, Peer};
use dz_common::packet::State;
use dz_common::session::{Mode, Timers};

use super::reload::file;
use super::{LOCAL, Machine, NAME, PEER, SECOND, connected, options};
use crate::engine::state::keys::peer_key;
use crate::engine::state::wants::Configured;
use crate::memory::Call;
use crate::settings::PeerSpec;

const LONG: u64 = 600 * SECOND;

impl Machine {
    fn peer(&self) -> Option<Peer> {
        let kernel = self.kernel.borrow();
        kernel.maps().unwrap().peer(&peer_key(NAME, PEER)).copied()
    }

    fn generation(&self) -> u32 {
        self.session().unwrap().generation
    }

    fn timers(&self) -> Timers {
        self.session().unwrap().session.timers
    }
}

/// Makes a machine whose agent had this file, and ended while the session was Up.
fn left_up(words: &[&str]) -> Machine {
    let machine = Machine::new();
    let mut process = machine.start_with(options(words), file(words));
    machine.come_up(LONG);
    process.check();
    assert!(machine.has_route());
    machine
}

#[test]
fn what_no_peer_need_know_first_changes_without_a_flap() {
    let machine = left_up(&["--tx-interval=1s"]);
    let generation = machine.generation();
    let words = [
        "--tx-interval=300ms",
        "--rx-interval=2s",
        "--detect-mult=7",
        "--min-ttl=255",
        "--backoff-cap=9s",
    ];
    let _process = machine.start_with(options(&words), file(&words));
    assert_eq!(machine.timers(), options(&words).timers());
    assert_eq!(machine.generation(), generation);
    assert_eq!(machine.session().unwrap().session.state, State::Up);
    assert!(machine.has_route());
}

#[test]
fn what_a_peer_has_to_know_first_opens_the_session_anew() {
    for words in [["--tx-interval=2s"], ["--rx-interval=300ms"]] {
        let machine = left_up(&["--tx-interval=1s"]);
        let generation = machine.generation();
        machine.frames();
        let mut process = machine.start_with(options(&words), file(&words));
        let told = machine.frames();
        assert!(!told.is_empty(), "AdminDown");
        assert!(!machine.has_route(), "{words:?}");
        assert!(machine.has_peer());
        process.let_pass(&machine);
        assert_eq!(machine.timers(), options(&words).timers());
        assert_ne!(machine.generation(), generation);
        machine.come_up(LONG);
        process.check();
        assert!(machine.has_route());
    }
}

#[test]
fn defaults_reach_what_a_request_did_not_say() {
    let machine = Machine::new();
    let mut process = machine.start();
    let said = PeerSpec {
        tx_interval_us: Some(500_000),
        passive: Some(true),
        ..PeerSpec::new(PEER, LOCAL)
    };
    process
        .connect_as(said.clone())
        .try_recv()
        .unwrap()
        .unwrap();
    machine.come_up(LONG);
    drop(process);
    let words = ["--tx-interval=300ms", "--detect-mult=9"];
    let mut process = machine.start_with(options(&words), Configured::default());
    let timers = machine.timers();
    assert_eq!((timers.detect_mult, timers.mode), (9, Mode::Passive));
    assert_eq!(timers.desired_min_tx_us, 500_000);
    assert_eq!(machine.peer().unwrap().origin, Origin::Api);
    // Said again with a value that was a default so far.
    let again = PeerSpec {
        detect_mult: Some(9),
        ..said
    };
    process.connect_as(again).try_recv().unwrap().unwrap();
    drop(process);
    let _process = machine.start();
    assert_eq!(machine.timers().detect_mult, 9);
}

#[test]
fn a_peer_that_moves_to_the_file_keeps_session_and_route() {
    let (machine, process) = connected();
    let generation = machine.generation();
    drop(process);
    let mut process = machine.start_with(options(&[]), file(&[]));
    assert!(machine.has_route());
    process.check();
    assert_eq!(machine.generation(), generation);
    assert_eq!(machine.peer().unwrap().origin, Origin::Config);
    assert!(machine.has_route());
}

#[test]
fn one_that_the_file_has_no_more_is_told_and_its_route_goes() {
    let machine = left_up(&[]);
    machine.frames();
    let mut process = machine.start();
    assert!(!machine.frames().is_empty(), "AdminDown");
    process.let_pass(&machine);
    assert!(!machine.has_peer() && machine.session().is_none() && !machine.has_route());
}

#[test]
fn a_crash_after_the_peer_was_written_leaves_the_rest_to_the_next_start() {
    let machine = left_up(&[]);
    let words = ["--detect-mult=9"];
    let peer = file(&words)[&peer_key(NAME, PEER)];
    let mut kernel = machine.kernel.borrow_mut();
    let maps = kernel.maps_mut().unwrap();
    maps.set_peer(&peer_key(NAME, PEER), &peer).unwrap();
    drop(kernel);
    let _process = machine.start_with(options(&words), file(&words));
    assert_eq!(machine.timers().detect_mult, 9);
}

#[test]
fn an_interface_that_nobody_names_any_more_is_withdrawn_from() {
    for origin in [Origin::Config, Origin::Api] {
        let machine = if origin == Origin::Config {
            left_up(&[])
        } else {
            connected().0
        };
        machine.frames();
        let words = ["--interface=other0"];
        let leaving = vec![NAME.to_owned()];
        let mut process = machine.start_after(options(&words), Configured::default(), leaving);
        assert!(!machine.frames().is_empty(), "AdminDown");
        assert!(!machine.has_route());
        process.let_pass(&machine);
        assert!(machine.session().is_none());
        assert_eq!(
            machine.has_peer(),
            origin == Origin::Api,
            "for when it is named again"
        );
        assert_eq!(process.engine.interfaces.len(), 1);
        assert!(machine.kernel.borrow().attached(machine.ifindex).is_none());
        drop(process);
        let _process = machine.start();
        assert_eq!(machine.session().is_some(), origin == Origin::Api);
    }
}

#[test]
fn one_that_is_left_and_cannot_be_served_fails_no_start() {
    let machine = connected().0;
    machine.refuse(2, |call| matches!(call, Call::Attach(_)));
    let words = ["--interface=other0"];
    let leaving = vec![NAME.to_owned()];
    let mut process = machine.start_after(options(&words), Configured::default(), leaving);
    process.let_pass(&machine);
    process.check();
    assert!(machine.session().is_none() && !machine.has_route());
    assert_eq!(process.engine.interfaces.len(), 1);
}

#[test]
fn a_start_that_fails_leaves_the_settings_of_the_earlier_agent() {
    let machine = connected().0;
    let config = |machine: &Machine| *machine.kernel.borrow().maps().unwrap().config();
    let (before, timers) = (config(&machine), machine.timers());
    let words = ["--port=44990", "--route-protocol=150", "--detect-mult=9"];
    machine.refuse(1, |call| matches!(call, Call::Attach(_)));
    let started = machine.try_start_after(options(&words), Configured::default(), Vec::new());
    assert!(started.is_err());
    assert_eq!((config(&machine), machine.timers()), (before, timers));
    machine.start_with(options(&words), Configured::default());
    assert_eq!(
        (config(&machine).port, machine.timers().detect_mult),
        (44_990, 9)
    );
}
