//! Tests of the engine's flows over the kernel in memory. This file has what they share: a machine, and an
//! agent process on it.

mod aside;
mod changes;
mod held;
mod refused;
mod reload;
mod settings;
mod start;
mod transaction;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use clap::{Args, FromArgMatches};
use dz_common::map::{Deadline, SessionEntry, SessionKey};
use dz_common::packet::State;
use futures_util::FutureExt;
use nix::errno::Errno;
use tokio::sync::{oneshot, watch};

use crate::command::{Command, Named, Refusal, Selector};
use crate::engine::hands::chosen::settings;
use crate::engine::hands::memory::MemoryHands;
use crate::engine::hands::pending::Requests;
use crate::engine::parts::{Engine, Prepared};
use crate::engine::show::shared::Shared;
use crate::engine::state::followed::Followed;
use crate::engine::state::keys::peer_key;
use crate::engine::state::wants::{Configured, Wants};
use crate::engine::turn::Turn;
use crate::error::Failure;
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
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NAME: &str = "doublezero0";
const SECOND: u64 = 1_000_000_000;

type Reply<T> = oneshot::Receiver<Result<Vec<T>, Refusal>>;

/// A machine in memory with one interface to be served, and its address.
struct Machine {
    kernel: Rc<RefCell<Kernel>>,
    net: Rc<RefCell<Net>>,
    ifindex: u32,
}

/// An agent process on a machine; between two calls it has nothing more to do.
struct Process {
    engine: Engine<MemoryHands>,
    handle: Handle,
    requests: Requests,
}

fn options(words: &[&str]) -> RunOptions {
    let command = RunOptions::augment_args(clap::Command::new("test").no_binary_name(true));
    let few = ["--max-sessions=8"];
    let is_said = words.iter().any(|word| word.starts_with("--max-sessions"));
    let words = few.iter().filter(|_| !is_said).chain(words);
    let matches = command.get_matches_from(words);
    RunOptions::from_arg_matches(&matches).unwrap()
}

impl Machine {
    /// Makes a machine with a tunnel, which has an allocated address.
    fn new() -> Self {
        let tunnel = Tunnel {
            local: Some(Ipv4Addr::new(192, 0, 2, 1)),
            remote: Some(Ipv4Addr::new(192, 0, 2, 2)),
        };
        Self::with(Shape::gre(tunnel), Address::plain(LOCAL, 32))
    }

    /// Makes a machine whose interface has Ethernet frames, with its peers in the same subnet.
    fn ethernet() -> Self {
        Self::with(Shape::nic(MAC), Address::plain(LOCAL, 24))
    }

    fn with(shape: Shape, address: Address) -> Self {
        let mut net = Net::new(true);
        let (link, mac) = (shape.link.clone().unwrap(), shape.mac.unwrap_or_default());
        let ifindex = net.create_link(NAME, shape).unwrap();
        net.set_up(ifindex, true).unwrap();
        net.add_address(ifindex, address).unwrap();
        let kernel = Kernel::shared();
        let up = true;
        let device = Device { link, mac, up };
        kernel.borrow_mut().set_device(ifindex, Some(device));
        let machine = Self {
            kernel,
            net: Rc::new(RefCell::new(net)),
            ifindex,
        };
        machine.pass(SECOND);
        machine
    }

    /// Lets time pass, and kernel timers fire.
    fn pass(&self, ns: u64) {
        let mut kernel = self.kernel.borrow_mut();
        let now_ns = kernel.now_ns() + ns;
        kernel.set_now_ns(now_ns);
        kernel.run_timers();
    }

    fn start(&self) -> Process {
        self.try_start().unwrap()
    }

    fn try_start(&self) -> Result<Process, Failure> {
        self.try_start_after(options(&[]), Configured::default(), Vec::new())
    }

    /// Starts a process with these options and this file.
    fn start_with(&self, options: RunOptions, configured: Configured) -> Process {
        self.start_after(options, configured, Vec::new())
    }

    /// Starts a process after one that served these interfaces, too.
    fn start_after(
        &self,
        options: RunOptions,
        configured: Configured,
        leaving: Vec<String>,
    ) -> Process {
        self.try_start_after(options, configured, leaving).unwrap()
    }

    fn try_start_after(
        &self,
        options: RunOptions,
        configured: Configured,
        leaving: Vec<String>,
    ) -> Result<Process, Failure> {
        let handle = Handle::new(&self.kernel);
        handle.load(&settings(&options))?;
        self.net.borrow_mut().subscribe(false, 64);
        let hands = MemoryHands::new(handle.clone(), Rc::clone(&self.net), &options, &leaving);
        let requests = hands.requests().clone();
        let (_, metrics) = watch::channel(MetricsView::Off);
        let shared = Arc::new(Shared::new(Recorded::default(), metrics));
        let followed = Followed::new(options.conditions().unwrap());
        let prepared = Prepared {
            wants: Wants::new(configured, options.policy(), followed),
            identity: Identity::known([7; 16]),
            leaving,
        };
        let mut engine = Engine::new(hands, options, prepared, shared)?;
        finish(&handle, &requests, engine.start())?;
        let mut process = Process {
            engine,
            handle,
            requests,
        };
        process.settle();
        Ok(process)
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

    fn frames(&self) -> Vec<(u32, Vec<u8>)> {
        self.kernel.borrow_mut().take_frames()
    }

    /// Has the kernel refuse the next `times` calls of a kind.
    fn refuse(&self, mut times: u32, kind: fn(&Call) -> bool) {
        let refuse = move |call: &Call| {
            let is_refused = times > 0 && kind(call);
            times -= u32::from(is_refused);
            is_refused.then_some(Errno::ENOMEM)
        };
        self.kernel.borrow_mut().set_refuse(Some(Box::new(refuse)));
    }

    /// Puts the session Up, as if its peer had answered; it goes Down after `silent_ns` without a packet.
    fn come_up(&self, silent_ns: u64) {
        let mut entry = self.session().unwrap();
        let mut kernel = self.kernel.borrow_mut();
        let now_ns = kernel.now_ns();
        entry.session.state = State::Up;
        entry.session.ups = 1;
        entry.session.since_ns = now_ns;
        entry.session.last_rx_ns = now_ns;
        entry.session.detect_deadline_ns = now_ns + silent_ns;
        let maps = kernel.maps_mut().unwrap();
        maps.put_session(&entry.key, &entry).unwrap();
        let deadline = Deadline {
            deadline_ns: entry.scan_deadline_ns(),
            ..*maps.deadline(entry.slot).unwrap()
        };
        maps.set_deadline(entry.slot, deadline);
    }
}

/// Polls a future to its end, carrying out its requests and letting the time pass that it waits for.
fn finish<T>(handle: &Handle, requests: &Requests, work: impl Future<Output = T>) -> T {
    let mut work = Box::pin(work);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        if let std::task::Poll::Ready(done) = work.poll_unpin(&mut context) {
            return done;
        }
        if !requests.carry_out() {
            let mut kernel = handle.kernel().borrow_mut();
            if let Some(wake_ns) = kernel.next_wake_ns() {
                kernel.set_now_ns(wake_ns);
            }
        }
    }
    panic!("it never ends");
}

impl Process {
    fn take(&mut self, turn: Turn) {
        finish(&self.handle, &self.requests, self.engine.take_turn(turn));
    }

    /// Takes turns, reported state changes included, and carries out requests until there are no more.
    fn settle(&mut self) {
        finish(&self.handle, &self.requests, self.engine.reported());
        self.settle_unreported();
        finish(&self.handle, &self.requests, self.engine.reported());
        self.settle_unreported();
    }

    /// Takes turns and carries out requests until there are no more, but leaves reported state changes unread.
    fn settle_unreported(&mut self) {
        for _ in 0..100 {
            if let Some(turn) = self.engine.answered().now_or_never() {
                self.take(turn);
            } else if !self.requests.carry_out() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Takes a turn for every notification that waits to be read.
    fn hear(&mut self, machine: &Machine) {
        loop {
            let family = machine.net.borrow().waiting().next();
            let Some(family) = family else { break };
            let event = machine.net.borrow_mut().next_event(family);
            self.take(Turn::Changed(event.unwrap()));
        }
    }

    /// Lets two seconds pass, and takes every turn that comes.
    fn let_pass(&mut self, machine: &Machine) {
        for _ in 0..20 {
            machine.pass(SECOND / 10);
            self.take(Turn::Due);
            self.settle();
        }
    }

    fn connect(&mut self) -> Reply<crate::command::Connected> {
        self.connect_as(PeerSpec::new(PEER, LOCAL))
    }

    fn connect_as(&mut self, peer: PeerSpec) -> Reply<crate::command::Connected> {
        let (reply, answer) = oneshot::channel();
        let peers = vec![peer];
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

    /// Runs a full check, as every ten seconds.
    fn check(&mut self) {
        self.engine.begin_check();
        self.settle();
    }
}

/// Makes a machine and its agent, with a session that is Up and stays so for ten minutes.
fn connected() -> (Machine, Process) {
    connected_for(600 * SECOND)
}

/// Makes a machine and its agent, with a session that is Up and goes Down after `silent_ns`.
fn connected_for(silent_ns: u64) -> (Machine, Process) {
    let machine = Machine::new();
    let mut process = machine.start();
    process.connect().try_recv().unwrap().unwrap();
    machine.come_up(silent_ns);
    process.check();
    assert!(machine.has_route());
    (machine, process)
}
