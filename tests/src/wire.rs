//! A wire between two TUN devices, with a delay, that can be cut, and that remembers what passed.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::priority;
use crate::receive::Receive;
use crate::tun::Tun;
use crate::wait::{join, monotonic_ns};

/// Most packets that are remembered per wire; later ones only count.
const RECORDS: usize = 100_000;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first device to the second.
    AToB,
    /// From the second device to the first.
    BToA,
}

/// A packet that a host sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it entered the wire, ns of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Which way.
    pub direction: Direction,
    /// From its IP header on.
    pub packet: Vec<u8>,
    /// It did not get lost, nor meet a cut.
    pub forwarded: bool,
}

/// Packets of each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// From the first device to the second, cut or not.
    pub a_to_b: u64,
    /// From the second device to the first, cut or not.
    pub b_to_a: u64,
}

/// Says of a packet whether it gets lost.
type Loss = Box<dyn FnMut(Direction, &[u8]) -> bool + Send>;

#[derive(Default)]
struct State {
    delay: Duration,
    cut: [bool; 2],
    loss: Option<Loss>,
    counts: Counts,
    records: Vec<Record>,
    failure: Option<String>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("delay", &self.delay)
            .field("cut", &self.cut)
            .field("counts", &self.counts)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// The wire; it and its devices are gone after the drop.
#[derive(Debug)]
pub struct TunWire {
    ends: Arc<[Tun; 2]>,
    state: Arc<Mutex<State>>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl TunWire {
    /// Connects two devices; `delay` is one way.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn connect(a: Tun, b: Tun, delay: Duration) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State {
            delay,
            ..State::default()
        }));
        let (stopped, stop) = pipe()?;
        let ends = Arc::new([a, b]);
        let (shared, both) = (Arc::clone(&state), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            // A real wire does not wait for a scheduler. Without the privilege it does.
            let _ = priority::raise(0);
            if let Err(error) = forward(both.each_ref(), &stopped, &shared) {
                lock(&shared).failure = Some(error.to_string());
            }
        });
        Ok(Self {
            ends,
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Changes the delay, one way, of packets that enter from now on.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Cuts or mends one direction, for packets that enter from now on.
    pub fn set_cut(&self, direction: Direction, cut: bool) {
        lock(&self.state).cut[direction as usize] = cut;
    }

    /// From now on loses the packets of which this says so.
    pub fn set_loss(&self, loss: impl FnMut(Direction, &[u8]) -> bool + Send + 'static) {
        lock(&self.state).loss = Some(Box::new(loss));
    }

    /// Cuts or mends both directions.
    pub fn set_cut_both(&self, cut: bool) {
        lock(&self.state).cut = [cut; 2];
    }

    /// Has a packet come out of the wire that nobody has sent into it: at once, cut or not, and not on
    /// record.
    ///
    /// # Errors
    /// As [`Tun::send`].
    pub fn inject(&self, direction: Direction, packet: &[u8]) -> io::Result<()> {
        self.ends[1 - direction as usize].send(packet)
    }

    /// How many packets have entered so far.
    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }

    /// The packets that have entered so far, in order; the first 100,000.
    ///
    /// # Panics
    /// The wire has failed (a device was deleted): what it would show is not the whole truth.
    pub fn records(&self) -> Vec<Record> {
        let state = lock(&self.state);
        assert_eq!(state.failure, None, "the wire has failed");
        state.records.clone()
    }
}

impl Drop for TunWire {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packets on their way in one direction, with the times at which they come out.
type Queue = VecDeque<(u64, Vec<u8>)>;

fn forward(ends: [&Tun; 2], stop: &PipeReader, state: &Mutex<State>) -> io::Result<()> {
    let mut queues = [Queue::new(), Queue::new()];
    loop {
        let due = queues
            .iter()
            .filter_map(|queue| queue.front())
            .map(|(due, _)| *due)
            .min();
        let wait = due.map(|due| Duration::from_nanos(due.saturating_sub(monotonic_ns())));
        let mut files = [ends[0].as_fd(), ends[1].as_fd(), stop.as_fd()]
            .map(|file| PollFd::new(file, PollFlags::POLLIN));
        match ppoll(&mut files, wait.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if files[2].any().unwrap_or(true) {
            return Ok(());
        }
        for (from, direction) in [(0, Direction::AToB), (1, Direction::BToA)] {
            while let Some(packet) = ends[from].try_recv()? {
                enter(&mut lock(state), direction, packet, &mut queues[from]);
            }
            let now = monotonic_ns();
            while queues[from].front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, packet)) = queues[from].pop_front() {
                    // A device that is down at present loses packets, as a tunnel does.
                    let _ = ends[1 - from].send(&packet);
                }
            }
        }
    }
}

fn enter(state: &mut State, direction: Direction, packet: Vec<u8>, queue: &mut Queue) {
    let at_ns = monotonic_ns();
    let lost = state.loss.as_mut();
    let lost = lost.is_some_and(|lost| lost(direction, &packet));
    let forwarded = !state.cut[direction as usize] && !lost;
    match direction {
        Direction::AToB => state.counts.a_to_b += 1,
        Direction::BToA => state.counts.b_to_a += 1,
    }
    if state.records.len() < RECORDS {
        state.records.push(Record {
            at_ns,
            direction,
            packet: packet.clone(),
            forwarded,
        });
    }
    if forwarded {
        let delay = u64::try_from(state.delay.as_nanos()).unwrap_or(u64::MAX);
        queue.push_back((at_ns.saturating_add(delay), packet));
    }
}
