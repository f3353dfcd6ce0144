//! A far end that answers for every address that is asked, and believes in no end: thousands of
//! peers for the price of one thread. It has no state machine; tests about the protocol want
//! [`crate::udp_peer`].

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Bound;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dz_common::packet::{Packet, State, Version};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::frame::{Datagram, Parsed, parse_udp};
use crate::priority;
use crate::receive::Receive;
use crate::tun::Tun;
use crate::wait::{join, monotonic_ns};

/// In how many parts the peers send without being asked, one after the other.
const PARTS: u32 = 64;

/// The far ends; they and the device are gone after the drop.
#[derive(Debug)]
pub struct Answerer {
    cut: Arc<AtomicBool>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// Answers what is sent into the device, and sends once per `interval` without being asked. With
    /// `insist` to sessions that have ended long ago, too, and AdminDown is answered with Up.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn start(tun: Tun, interval: Duration, insist: bool) -> io::Result<Self> {
        let cut = Arc::new(AtomicBool::new(false));
        let (stopped, stop) = pipe()?;
        let mut far = Far {
            tun,
            interval,
            insist,
            cut: Arc::clone(&cut),
            known: BTreeMap::new(),
            last: None,
        };
        let thread = thread::spawn(move || {
            let _ = priority::raise(0);
            far.run(&stopped);
        });
        Ok(Self {
            cut,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Cuts or mends the wire, both ways.
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

struct Far {
    tun: Tun,
    interval: Duration,
    insist: bool,
    cut: Arc<AtomicBool>,
    /// The other end of each peer's session: address and discriminator.
    known: BTreeMap<SocketAddrV4, (SocketAddrV4, u32)>,
    /// The peer that was the last to send without being asked.
    last: Option<SocketAddrV4>,
}

impl Far {
    fn run(&mut self, stop: &PipeReader) {
        let part_ns = u64::try_from((self.interval / PARTS).as_nanos()).unwrap_or(u64::MAX);
        let mut due_ns = monotonic_ns() + part_ns;
        loop {
            let wait = due_ns.saturating_sub(monotonic_ns());
            let wait = TimeSpec::from_duration(Duration::from_nanos(wait));
            let mut files =
                [self.tun.as_fd(), stop.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
            match ppoll(&mut files, Some(wait), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            if files[1].any().unwrap_or(true) {
                return;
            }
            let cut = self.cut.load(Ordering::Relaxed);
            while let Ok(Some(packet)) = self.tun.try_recv() {
                if let Some(asked) = parse_udp(&packet).filter(|_| !cut) {
                    self.answer(&asked);
                }
            }
            if monotonic_ns() >= due_ns {
                due_ns += part_ns;
                self.send_part(cut);
            }
        }
    }

    /// The next ones send, or would if the wire were not cut.
    fn send_part(&mut self, cut: bool) {
        let part = self.known.len().div_ceil(PARTS as usize);
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.known.range((from, Bound::Unbounded)).take(part);
        self.last = None;
        for (peer, (host, discr)) in next {
            if !cut {
                send(&self.tun, self.interval, *peer, *host, State::Up, *discr);
            }
            self.last = Some(*peer);
        }
    }

    fn answer(&mut self, asked: &Parsed) {
        let Ok(packet) = Packet::decode(&asked.payload) else {
            return;
        };
        let state = match packet.state {
            State::AdminDown if !self.insist => {
                self.known.remove(&asked.dst);
                return;
            }
            State::Down => State::Init,
            _ => State::Up,
        };
        self.known.insert(asked.dst, (asked.src, packet.my_discr));
        let (tun, interval) = (&self.tun, self.interval);
        send(tun, interval, asked.dst, asked.src, state, packet.my_discr);
    }
}

fn send(
    tun: &Tun,
    interval: Duration,
    peer: SocketAddrV4,
    host: SocketAddrV4,
    state: State,
    your_discr: u32,
) {
    let interval_us = u32::try_from(interval.as_micros()).unwrap_or(u32::MAX);
    let packet = Packet {
        state,
        detect_mult: 3,
        my_discr: u32::from(*peer.ip()),
        your_discr,
        desired_min_tx_us: interval_us,
        required_min_rx_us: interval_us,
        passive: false,
        version: Version::new([1, 0, 0, 0]),
        reserved_set: false,
    };
    let datagram = Datagram::new(peer, host, packet.encode());
    // A device that is down at present loses packets, as a tunnel does.
    let _ = tun.send(&datagram.build());
}

/// The address of peer number `index` of a test with many: 10.32.0.0/16 and what follows.
#[must_use]
pub fn peer(index: usize) -> Ipv4Addr {
    let first = u32::from_be_bytes([10, 32, 0, 1]);
    Ipv4Addr::from(first.wrapping_add(index as u32))
}
