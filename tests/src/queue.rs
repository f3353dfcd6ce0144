//! A device that sends slower than somebody wants it to: its queue is full, and stays so.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::harness::Outcome;
use crate::netns::Netns;
use crate::wait::{eventually, join};

/// So many packets of a flood are a second of the device's time.
const RATE: &str = "500kbit";
const PAYLOAD: usize = 1_200;
/// Each fills its send buffer: some hundred packets.
const SOCKETS: usize = 8;
/// Packets that wait when the queue is called full: some seconds.
const FULL: u64 = 200;
/// The discard port (RFC 863).
const DISCARD: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(30);

/// In which order packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// As they came.
    Fifo,
    /// By `skb->priority`: the kernel's default.
    ByPriority,
}

impl Discipline {
    const fn arguments(self) -> &'static str {
        match self {
            Self::Fifo => "pfifo limit 10000",
            Self::ByPriority => "pfifo_fast",
        }
    }
}

/// Makes a device slow. Returns the reason if this kernel cannot.
///
/// # Errors
/// `tc` refuses for another reason.
pub fn narrow(
    netns: &Netns,
    device: &str,
    discipline: Discipline,
) -> anyhow::Result<Option<Outcome>> {
    let root = format!("root handle 1: tbf rate {RATE} burst 4kb limit 100mb");
    let child = format!("parent 1:1 handle 10: {}", discipline.arguments());
    for what in [root, child] {
        if let Err(error) = netns.command(&format!("tc qdisc add dev {device} {what}")) {
            let said = error.to_string();
            ensure!(
                said.contains("unknown") || said.contains("No such file"),
                "{said}"
            );
            return Ok(Some(Outcome::Skip(format!(
                "this kernel has no qdisc: {said}"
            ))));
        }
    }
    Ok(None)
}

/// Somebody who sends more than the device can; until the drop.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends to an address whose next hop is known, and waits until the device's queue is full.
    ///
    /// # Errors
    /// No sockets, or the queue does not fill.
    pub fn start(netns: &Netns, device: &str, to: Ipv4Addr) -> anyhow::Result<Self> {
        let open = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(SocketAddrV4::new(to, DISCARD))?;
            Ok(socket)
        };
        let sockets = netns.run(|| (0..SOCKETS).map(|_| open()).collect::<io::Result<Vec<_>>>())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for socket in &sockets {
                    // Until its buffer is full; nobody listens at the other end.
                    while socket.send(&[0xf1; PAYLOAD]).is_ok() {}
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let flood = Self {
            stop,
            thread: Some(thread),
        };
        eventually(PATIENCE, "a full queue", || {
            let waiting = backlog(netns, device)?;
            ensure!(waiting >= FULL, "{waiting} packets");
            anyhow::Ok(())
        })?;
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

/// How many packets wait for a device.
///
/// # Errors
/// `tc` does not say.
pub fn backlog(netns: &Netns, device: &str) -> anyhow::Result<u64> {
    let shown = netns.command(&format!("tc -s qdisc show dev {device} root"))?;
    let words = shown.split_whitespace();
    let packets = words.skip_while(|word| *word != "backlog").nth(2);
    let packets = packets.and_then(|word| word.strip_suffix('p')?.parse().ok());
    packets.with_context(|| format!("no backlog in {shown}"))
}
