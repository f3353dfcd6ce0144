//! The transaction over a kernel in memory: its order, and what a kill after each single effect leaves.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use clap::{Args, FromArgMatches};
use dz_common::map::{SessionEntry, SessionKey};
use dz_common::packet::State;
use dz_common::session::DownReason;
use futures_util::FutureExt;
use nix::errno::Errno;
use tokio::sync::{oneshot, watch};

use crate::command::{Command, Named, Refusal, Selector};
use crate::engine::hands::kernel::settings;
use crate::engine::hands::memory::{MemoryHands, Requests};
use crate::engine::parts::{Engine, Prepared};
use crate::engine::show::shared::Shared;
use crate::engine::state::followed::Followed;
use crate::engine::state::keys::peer_key;
use crate::engine::state::wants::{Configured, Wants};
use crate::engine::turn::Turn;
use crate::host::identity::Identity;
use crate::memory::net::{Net, Shape};
use crate::memory::{Call, Device, Handle, Kernel};
use crate::metrics::Recorded;
use crate::net::links::{Address, Tunnel};
use crate::net::routes::DEFAULT_PROTOCOL;
use crate::settings::{PeerSpec, RunOptions};
use crate::view::MetricsView;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NAME: &str = "doublezero0";
/// More effects than any part of the transaction has.
const MANY: u64 = 60;
const SECOND: u64 = 1_000_000_000;

type Reply<T> = oneshot::Receiver<Result<Vec<T>, Refusal>>;

/// A machine with the tunnel and its address.
struct Machine {
    kernel: Rc<RefCell<Kernel>>,
    net: Rc<RefCell<Net>>,
    ifindex: u32,
}

/// A process on it, at rest.
struct Process {
    engine: Engine<MemoryHands>,
    handle: Handle,
    requests: Requests,
}

fn options() -> RunOptions {
    let command = RunOptions::augment_args(clap::Command::new("test").no_binary_name(true));
    let matches = command.get_matches_from(["--max-sessions", "8"]);
    RunOptions::from_arg_matches(&matches).unwrap()
}

impl Machine {
    fn new() -> Self {
        let mut net = Net::new(true);
        let tunnel = Tunnel {
            local: Some(Ipv4Addr::new(192, 0, 2, 1)),
            remote: Some(Ipv4Addr::new(192, 0, 2, 2)),
        };
        let ifindex = net.create_link(NAME, Shape::gre(tunnel)).unwrap();
        net.set_up(ifindex, true).unwrap();
        let address = Address {
            local: LOCAL,
            prefix_len: 32,
            peer: None,
            scope: 0,
            secondary: false,
        };
        net.add_address(ifindex, address).unwrap();
        let kernel = Kernel::shared();
        let device = Device {
            link: dz_common::ingress::Link::Layer3,
            mac: [0; 6],
            up: true,
        };
        kernel.borrow_mut().set_device(ifindex, Some(device));
        let machine = Self {
            kernel,
            net: Rc::new(RefCell::new(net)),
            ifindex,
        };
        machine.pass(SECOND);
        machine
    }

    /// Lets time pass.
    fn pass(&self, ns: u64) {
        let mut kernel = self.kernel.borrow_mut();
        let now_ns = kernel.now_ns() + ns;
        kernel.set_now_ns(now_ns);
        kernel.run_timers();
    }

    fn start(&self) -> Process {
        let options = options();
        let handle = Handle::new(&self.kernel);
        handle.load(&settings(&options)).unwrap();
        self.net.borrow_mut().subscribe(false, 64);
        let names = options.interfaces.clone();
        let hands = MemoryHands::new(
            handle.clone(),
            Rc::clone(&self.net),
            DEFAULT_PROTOCOL,
            names,
        );
        let requests = hands.requests().clone();
        let (_, metrics) = watch::channel(MetricsView::Off);
        let shared = Arc::new(Shared::new(Recorded::default(), metrics));
        let followed = Followed::new(options.conditions().unwrap());
        let prepared = Prepared {
            wants: Wants::new(Configured::default(), options.policy(), followed),
            identity: Identity::known([7; 16]),
        };
        let mut engine = Engine::new(hands, options, prepared, shared).unwrap();
        finish(&requests, engine.start()).unwrap();
        let mut process = Process {
            engine,
            handle,
            requests,
        };
        process.settle();
        process
    }

    fn key(&self) -> SessionKey {
        SessionKey {
            ifindex: self.ifindex,
            local: LOCAL.octets(),
            peer: PEER.octets(),
        }
    }

    fn session(&self) -> Option<SessionEntry> {
        let kernel = self.kernel.borrow();
        kernel.maps().unwrap().session(&self.key())
    }

    fn has_peer(&self) -> bool {
        let kernel = self.kernel.borrow();
        kernel.maps().unwrap().peer(&peer_key(NAME, PEER)).is_some()
    }

    fn has_route(&self) -> bool {
        !self.net.borrow().routes(DEFAULT_PROTOCOL).is_empty()
    }

    /// The peer answers: the session is Up.
    fn come_up(&self) {
        let mut entry = self.session().unwrap();
        let now_ns = self.kernel.borrow().now_ns();
        entry.session.state = State::Up;
        entry.session.ups = 1;
        entry.session.since_ns = now_ns;
        entry.session.last_rx_ns = now_ns;
        entry.session.last_down_reason = DownReason::None;
        entry.session.detect_deadline_ns = now_ns + 600 * SECOND;
        let mut kernel = self.kernel.borrow_mut();
        let maps = kernel.maps_mut().unwrap();
        maps.put_session(&entry.key, &entry).unwrap();
    }
}

/// Polls something to its end; what it asks of the kernel is carried out.
fn finish<T>(requests: &Requests, work: impl Future<Output = T>) -> T {
    let mut work = Box::pin(work);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        if let std::task::Poll::Ready(done) = work.poll_unpin(&mut context) {
            return done;
        }
        requests.carry_out();
    }
    panic!("it never ends");
}

impl Process {
    fn take(&mut self, turn: Turn) {
        finish(&self.requests, self.engine.take_turn(turn));
    }

    /// Takes every turn that there is by now, and carries out every request.
    fn settle(&mut self) {
        for _ in 0..100 {
            finish(&self.requests, self.engine.reported());
            if let Some(turn) = self.engine.answered().now_or_never() {
                self.take(turn);
            } else if !self.requests.carry_out() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Lets time pass until nothing is due any more.
    fn let_pass(&mut self, machine: &Machine) {
        for _ in 0..20 {
            machine.pass(SECOND / 10);
            self.take(Turn::Due);
            self.settle();
        }
    }

    fn connect(&mut self) -> Reply<crate::command::Connected> {
        let (reply, answer) = oneshot::channel();
        let peers = vec![PeerSpec::new(PEER, LOCAL)];
        self.take(Turn::Command(Command::Connect { peers, reply }));
        answer
    }

    fn disconnect(&mut self) -> Reply<crate::command::Disconnected> {
        let (reply, answer) = oneshot::channel();
        let interface = None;
        let peer = PEER;
        let selector = Selector::Peers(vec![Named { interface, peer }]);
        self.take(Turn::Command(Command::Disconnect { selector, reply }));
        answer
    }

    /// A full check, as every ten seconds.
    fn check(&mut self) {
        self.engine.begin_check();
        self.settle();
    }
}

/// A machine whose session with the peer is Up, and its agent.
fn connected() -> (Machine, Process) {
    let machine = Machine::new();
    let mut process = machine.start();
    process.connect().try_recv().unwrap().unwrap();
    machine.come_up();
    process.check();
    assert!(machine.has_route());
    (machine, process)
}

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
fn a_withdrawal_goes_on_when_the_kernel_refuses_for_a_while() {
    for refused in [1, 2, 5] {
        let (machine, mut process) = connected();
        let mut left = refused;
        let refuse = move |call: &Call| {
            let is_refused = matches!(call, Call::Control(..)) && left > 0;
            left -= u32::from(is_refused);
            is_refused.then_some(Errno::ENOMEM)
        };
        machine
            .kernel
            .borrow_mut()
            .set_refuse(Some(Box::new(refuse)));
        process.engine.begin_withdrawal();
        for _ in 0..100 {
            assert!(process.engine.is_withdrawing() || !machine.has_peer());
            process.settle();
            machine.pass(SECOND / 10);
            process.engine.advance_withdrawal();
        }
        assert!(!process.engine.is_withdrawing());
        finish(&process.requests, process.engine.end_withdrawal()).unwrap();
        assert!(!machine.has_route() && machine.session().is_none());
    }
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
