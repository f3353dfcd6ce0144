//! The baseline in user space: the same state machine over a UDP socket, on one thread, and as good as
//! that can be made: sessions in an array by their address, hundreds of datagrams per system call, and
//! one look at a session per interval, on the grid that the agent uses.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dz_common::LIVENESS_PORT;
use dz_common::entry::Identity;
use dz_common::gate::Action;
use dz_common::map::{ABI_VERSION, Config, SessionEntry, SessionKey};
use dz_common::pacing::Tick;
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{Session, Timers};
use dz_tests::netns::Netns;
use dz_tests::wait::{join, monotonic_ns};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::time::TimeSpec;

use crate::batches::{Inbox, Outbox};

/// All sessions at once, and a small packet takes a kilobyte.
const BUFFER: usize = 64 << 20;
/// About 4 ms, as the agent has it.
const GRID_NS: u64 = 1 << 22;
/// Received in a row, before the clock is looked at.
const BATCHES: usize = 16;

/// Sessions from one address to many; they end with the drop.
pub(crate) struct Plain {
    up: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// When it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sends {
    /// By its own clock.
    Itself,
    /// And answers, as far as pacing allows.
    AnswersToo,
    /// Answers only.
    Answers,
}

impl Plain {
    /// Sessions with `count` peers from `first` on.
    pub(crate) fn start(
        netns: &Netns,
        local: Ipv4Addr,
        (first, count): (Ipv4Addr, u32),
        timers: Timers,
        sends: Sends,
    ) -> anyhow::Result<Self> {
        let socket = netns.run(|| UdpSocket::bind(SocketAddrV4::new(local, LIVENESS_PORT)))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBufForce, &BUFFER)?;
        let up = Arc::new(AtomicU32::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let now_ns = monotonic_ns();
        let sessions = (0..count).map(|number| {
            entry(
                local,
                Ipv4Addr::from(u32::from(first) + number),
                timers,
                now_ns,
            )
        });
        let mut peer = Peer {
            socket,
            first: first.into(),
            sessions: sessions.collect(),
            // Not all at the same moment.
            due: (0..if sends == Sends::Answers { 0 } else { count })
                .map(|number| Reverse((now_ns + u64::from(number) * 20_000, number)))
                .collect(),
            config: config(sends != Sends::Itself),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            up: Arc::clone(&up),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || peer.run());
        Ok(Self {
            up,
            stop,
            thread: Some(thread),
        })
    }

    /// How many sessions are Up.
    pub(crate) fn up(&self) -> u32 {
        self.up.load(Ordering::Relaxed)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

struct Peer {
    socket: UdpSocket,
    first: u32,
    sessions: Vec<SessionEntry>,
    /// When each session is looked at, once in here. A receipt only moves things to later.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    config: Config,
    inbox: Inbox,
    outbox: Outbox,
    up: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Peer {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.wait();
            self.drain();
            self.look();
            self.outbox.flush(&self.socket);
        }
    }

    fn wait(&self) {
        let due_ns = self.due.peek().map_or(u64::MAX, |due| due.0.0);
        let wait_ns = due_ns.saturating_sub(monotonic_ns()).min(100_000_000);
        let wait = TimeSpec::from_duration(Duration::from_nanos(wait_ns));
        let mut files = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Woken up by a signal, it looks around in vain.
        let _ = ppoll(&mut files, Some(wait), None);
    }

    fn drain(&mut self) {
        let attended = self.config.grace_ns != 0;
        for _ in 0..BATCHES {
            let received = self.inbox.receive(self.socket.as_raw_fd());
            let now_ns = monotonic_ns();
            for number in 0..received {
                let (from, payload) = self.inbox.packet(number);
                let session = u32::from(from).wrapping_sub(self.first);
                if let (Ok(packet), Some(entry)) = (
                    Packet::decode(payload),
                    self.sessions.get_mut(session as usize),
                ) {
                    let before = entry.session.state;
                    let outcome = entry.receive(&packet, &self.config, now_ns, attended);
                    note(&self.up, before, entry.session.state);
                    if let Some(answer) = outcome.answer {
                        self.outbox.push(&self.socket, from, answer.encode());
                    }
                }
            }
            if received < Inbox::SIZE {
                break;
            }
        }
    }

    fn look(&mut self) {
        let now_ns = monotonic_ns();
        while let Some(&Reverse((due_ns, number))) = self.due.peek()
            && due_ns <= now_ns
        {
            self.due.pop();
            let Some(entry) = self.sessions.get_mut(number as usize) else {
                continue;
            };
            let before = entry.session.state;
            entry.expire(now_ns);
            let random = entry.draw();
            let (decision, next_ns) = entry.session.tick(now_ns, random);
            if decision == Tick::Send {
                let packet = entry.session.packet(self.config.version);
                self.outbox
                    .push(&self.socket, entry.key.peer.into(), packet.encode());
            }
            note(&self.up, before, entry.session.state);
            let next_ns = next_ns.min(entry.scan_deadline_ns());
            self.due
                .push(Reverse((next_ns.next_multiple_of(GRID_NS), number)));
        }
    }
}

fn note(up: &AtomicU32, before: State, after: State) {
    if before != after && after == State::Up {
        up.fetch_add(1, Ordering::Relaxed);
    } else if before != after && before == State::Up {
        up.fetch_sub(1, Ordering::Relaxed);
    }
}

fn entry(local: Ipv4Addr, peer: Ipv4Addr, timers: Timers, now_ns: u64) -> SessionEntry {
    let discr = discriminator(peer);
    SessionEntry::new(
        Identity {
            key: SessionKey {
                ifindex: 0,
                local: local.octets(),
                peer: peer.octets(),
            },
            slot: 0,
            generation: 0,
            block: 0,
            seed: discr,
        },
        Session::new(timers, discr, now_ns),
    )
}

/// What it calls its end of a session.
pub(crate) fn discriminator(peer: Ipv4Addr) -> u32 {
    u32::from(peer)
}

/// Answers are allowed while somebody attends.
fn config(answer: bool) -> Config {
    Config {
        abi_version: ABI_VERSION,
        port: LIVENESS_PORT,
        unknown_pass: 0,
        ignore_peer_passive: 0,
        version: Version::new([0; 4]),
        groups: 0,
        grace_ns: answer.into(),
        when_down: Action::Pass,
        when_never_up: Action::Pass,
        ttl: 64,
        tos: 0xc0,
        route_protocols: [0; 4],
    }
}
