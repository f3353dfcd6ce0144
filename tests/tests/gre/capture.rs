//! Everything that one end has put on the underlay, taken off a packet socket as it comes.

use std::io::{PipeReader, PipeWriter, pipe};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use dz_common::LIVENESS_PORT;
use dz_common::packet::Packet;
use dz_tests::frame::{UdpChecksum, parse_udp};
use dz_tests::gre::Ends;
use dz_tests::netns::Netns;
use dz_tests::raw::RawSocket;
use dz_tests::receive::Receive;
use etherparse::{EtherType, IpNumber, Ipv4HeaderSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Most packets that are kept; more are a failure.
const MOST: usize = 50_000;

/// The capture; it ends with the drop.
pub(crate) struct Capture {
    ends: Ends,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// A liveness packet in the tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) packet: Packet,
}

impl Capture {
    /// Of what arrives at a device of this namespace from a tunnel whose own host has these ends.
    pub(crate) fn start(netns: &Netns, device: &str, ends: Ends) -> Result<Self> {
        let socket = RawSocket::open_for(netns, device, EtherType::IPV4)?;
        let packets = Arc::default();
        let shared = Arc::clone(&packets);
        let (stopped, stop) = pipe()?;
        let thread = thread::spawn(move || drain(&socket, &stopped, &shared));
        Ok(Self {
            ends,
            packets,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// How many packets there are so far: a mark for [`Capture::since`].
    pub(crate) fn mark(&self) -> usize {
        lock(&self.packets).len()
    }

    /// The IPv4 packets since a mark, as they were on the underlay, but for the kernel's complaints about
    /// what comes in for a tunnel that is not there.
    pub(crate) fn since(&self, mark: usize) -> Vec<Vec<u8>> {
        let mut packets = lock(&self.packets)[mark..].to_vec();
        packets.retain(|packet| !self.ends.refuses(packet));
        packets
    }

    /// What was in the tunnel since a mark. Whatever else the underlay carried is left out.
    pub(crate) fn inside(&self, mark: usize) -> Result<Vec<Vec<u8>>> {
        let packets = self.since(mark);
        let inner = packets.iter().filter(|packet| is_gre(packet));
        inner.map(|packet| self.unwrap(packet)).collect()
    }

    /// The liveness packets since a mark. There must be nothing else but sound GRE, and each of them
    /// must be sound to the last field.
    pub(crate) fn liveness(&self, mark: usize) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for packet in self.since(mark) {
            let inner = self.unwrap(&packet)?;
            let told = |what| format!("{what}: {inner:02x?}");
            let parsed = parse_udp(&inner).with_context(|| told("no UDP"))?;
            if parsed.dst.port() != LIVENESS_PORT {
                continue;
            }
            ensure!(inner[0] == 0x45, told("IPv4 options"));
            ensure!(parsed.ttl == 64, told("inner TTL"));
            ensure!(parsed.tos == 0xc0, told("inner TOS"));
            ensure!(parsed.header_checksum_good, told("inner IPv4 checksum"));
            let good = parsed.udp_checksum == UdpChecksum::Good;
            ensure!(good, told("inner UDP checksum"));
            ensure!(parsed.src.port() == LIVENESS_PORT, told("source port"));
            let packet = Packet::decode(&parsed.payload);
            let packet = packet.map_err(|reject| anyhow::anyhow!("{reject:?}"));
            seen.push(Seen {
                from: *parsed.src.ip(),
                to: *parsed.dst.ip(),
                packet: packet.with_context(|| told("no liveness packet"))?,
            });
        }
        Ok(seen)
    }

    fn unwrap(&self, packet: &[u8]) -> Result<Vec<u8>> {
        let inner = self.ends.unwrap(packet);
        let inner = inner.with_context(|| format!("on the underlay: {packet:02x?}"))?;
        Ok(inner.to_vec())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the capture panicked");
        }
    }
}

pub(crate) fn is_gre(packet: &[u8]) -> bool {
    Ipv4HeaderSlice::from_slice(packet).is_ok_and(|header| header.protocol() == IpNumber::GRE)
}

/// Source and destination of an IPv4 packet.
pub(crate) fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    Some((header.source_addr(), header.destination_addr()))
}

fn lock(packets: &Mutex<Vec<Vec<u8>>>) -> MutexGuard<'_, Vec<Vec<u8>>> {
    packets.lock().unwrap_or_else(PoisonError::into_inner)
}

fn drain(socket: &RawSocket, stop: &PipeReader, packets: &Mutex<Vec<Vec<u8>>>) {
    loop {
        let mut files =
            [socket.as_fd(), stop.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
        let _ = poll(&mut files, PollTimeout::NONE);
        if files[1].any().unwrap_or(true) {
            return;
        }
        while let Some(frame) = socket.try_recv().expect("the underlay is there") {
            let mut packets = lock(packets);
            assert!(packets.len() < MOST, "more packets than a test makes");
            packets.extend(frame.get(14..).map(<[u8]>::to_vec));
        }
    }
}
