//! A plain UDP peer: a state machine of `dz-common`, the deployed client's or ours, over an ordinary
//! socket, with its own clock.
//!
//! It stands for the far end in tests of the agent, as the deployed client does in the field. It
//! runs on a thread of its own, which inherits the network namespace of the thread that spawned it,
//! and keeps any number of sessions, told apart by the peer's address. Instants are ns of
//! `CLOCK_MONOTONIC`, as the kernel programs count them.

mod config;
mod engine;
mod machine;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

pub use config::{Rules, UdpPeerConfig};
use engine::Engine;
pub use engine::{Change, Snapshot, Strays};
use socket::PeerSocket;

/// A running peer. Stops when dropped, without a goodbye.
#[derive(Debug)]
pub struct UdpPeer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    engine: Mutex<Engine>,
    /// Makes the thread look at the engine again.
    wake: EventFd,
}

impl UdpPeer {
    /// Binds the socket in the calling thread's network namespace and starts the thread.
    ///
    /// # Errors
    /// The socket cannot be bound (to the interface: needs `CAP_NET_RAW`), or no resources.
    pub fn spawn(config: UdpPeerConfig) -> io::Result<Self> {
        let socket = PeerSocket::bind(&config)?;
        let shared = Arc::new(Shared {
            engine: Mutex::new(Engine::new(config)),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        });
        let thread = std::thread::Builder::new().name("udp-peer".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // The far end is another machine. Without the privilege it is as busy as ours.
                let _ = crate::priority::raise(0);
                shared.run(&socket);
            }
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Starts a session with a peer, in Down. A deployed client's first packet comes after an interval,
    /// ours at once.
    ///
    /// # Panics
    /// There is one already.
    pub fn add_session(&self, peer: Ipv4Addr) {
        self.with(|engine, now_ns| engine.add(peer, now_ns));
    }

    /// Every session, by the peer's address.
    #[must_use]
    pub fn sessions(&self) -> Vec<Snapshot> {
        self.with(|engine, _| engine.snapshots())
    }

    /// One session.
    #[must_use]
    pub fn session(&self, peer: Ipv4Addr) -> Option<Snapshot> {
        self.with(|engine, _| engine.snapshot(peer))
    }

    /// What arrived and belonged to no session.
    #[must_use]
    pub fn strays(&self) -> Strays {
        self.with(|engine, _| engine.strays())
    }

    /// Puts a session in AdminDown, which is announced once.
    pub fn admin_down(&self, peer: Ipv4Addr) {
        self.with(|engine, now_ns| engine.admin_down(peer, now_ns));
    }

    /// Releases a session from AdminDown.
    pub fn admin_up(&self, peer: Ipv4Addr) {
        self.with(|engine, now_ns| engine.admin_up(peer, now_ns));
    }

    /// Sends nothing and throws away what arrives, as if the link were cut. Deadlines go on.
    pub fn silence(&self) {
        self.with(|engine, now_ns| engine.set_silent(true, now_ns));
    }

    /// Undoes [`UdpPeer::silence`].
    pub fn resume(&self) {
        self.with(|engine, now_ns| engine.set_silent(false, now_ns));
    }

    /// Forgets every session's state, as a restarted process does, and starts them with new random
    /// discriminators. The recorded changes and counts stay.
    pub fn restart_with_new_discriminators(&self) {
        self.with(|engine, now_ns| engine.restart(now_ns));
    }

    /// Stops without a goodbye and returns the last snapshots.
    #[must_use]
    pub fn stop(mut self) -> Vec<Snapshot> {
        self.join();
        self.sessions()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Engine, u64) -> T) -> T {
        let done = act(&mut self.shared.engine(), monotonic_ns());
        self.shared.wake();
        done
    }

    fn join(&mut self) {
        self.shared.engine().stop();
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the peer's thread panicked");
        }
    }
}

impl Drop for UdpPeer {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        // After a panic of the thread its last state is still worth looking at.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake anyway.
        let _ = self.wake.write(1);
    }

    fn run(&self, socket: &PeerSocket) {
        let mut buffer = [0; 2048];
        loop {
            {
                let mut engine = self.engine();
                if engine.stopped() {
                    return;
                }
                drain(socket, &mut engine, &mut buffer);
                engine.run_due(monotonic_ns());
                engine.send_all(|to, bytes| socket.send(to, bytes));
            }
            self.wait(socket);
        }
    }

    /// Sleeps until something arrives, someone calls, or a session is due.
    fn wait(&self, socket: &PeerSocket) {
        let due_ns = self.engine().next_due_ns();
        let timeout = due_ns.map(|due_ns| {
            TimeSpec::from_duration(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns())))
        });
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        // Reading resets the counter; nothing to read is the usual case.
        let _ = self.wake.read();
    }
}

/// Most packets taken before the clock gets its turn. More than a crowd sends within a detection
/// time: a packet that has arrived counts, however late this thread gets to read it.
const BATCH: usize = 16_384;

fn drain(socket: &PeerSocket, engine: &mut Engine, buffer: &mut [u8]) {
    for _ in 0..BATCH {
        match socket.receive(buffer) {
            Ok((from, length)) => engine.receive(from, &buffer[..length], monotonic_ns()),
            Err(Errno::EAGAIN) => return,
            // An ICMP error for something sent earlier, or the interface is gone.
            Err(_) => engine.note_socket_error(),
        }
    }
}

/// Now, in ns of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    Duration::from(now).as_nanos() as u64
}
