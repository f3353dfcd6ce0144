//! A node with the deployed client: its sessions by its rules, over a socket, on its own clock. It has
//! no kernel part, and its routes are nobody's business here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dz_common::LIVENESS_PORT;
use dz_common::deployed::{Deployed, Release};
use dz_common::headers::{DATAGRAM_LEN, Marks, UdpChecksum, write};
use dz_common::packet::{PACKET_LEN, Packet, State, Version};
use dz_common::session::Timers;
use fastrand::Rng;

use super::machine::{address_of, node_of};

const VERSION: Version = Version::new([0, 34, 0, 0]);
const MARKS: Marks = Marks {
    port: LIVENESS_PORT,
    tos: 0,
    ttl: 64,
};
/// Where the source stands in an IPv4 header.
const SOURCE: usize = 12;

/// The client of one node.
pub(super) struct Client {
    node: usize,
    release: Release,
    pub(super) sessions: BTreeMap<usize, Deployed>,
}

impl Client {
    pub(super) fn new(node: usize, release: Release) -> Self {
        Self {
            node,
            release,
            sessions: BTreeMap::new(),
        }
    }

    /// Keeps a session with a node from now on.
    pub(super) fn connect(&mut self, other: usize, now_ns: u64, rng: &mut Rng) {
        let release = self.release;
        let session = || Deployed::new(Timers::DEFAULT, rng.u32(1..), release, now_ns);
        self.sessions.entry(other).or_insert_with(session);
    }

    /// Gives a session up. The peer is told once; returns the packet.
    pub(super) fn disconnect(&mut self, other: usize) -> Option<Vec<u8>> {
        let mut session = self.sessions.remove(&other)?;
        session.session.state = State::AdminDown;
        Some(self.frame(other, &session.packet(VERSION)))
    }

    /// It is killed, and started again with the same peers: it knows nothing of them any more.
    pub(super) fn restart(&mut self, now_ns: u64, rng: &mut Rng) {
        for other in std::mem::take(&mut self.sessions).into_keys() {
            self.connect(other, now_ns, rng);
        }
    }

    pub(super) fn receive(&mut self, frame: &[u8], nodes: usize, now_ns: u64) {
        let source = frame
            .get(SOURCE..SOURCE + 4)
            .and_then(|b| b.try_into().ok());
        let other = source.and_then(|source: [u8; 4]| node_of(Ipv4Addr::from(source), nodes));
        let Some(session) = other.and_then(|other| self.sessions.get_mut(&other)) else {
            return;
        };
        let payload = DATAGRAM_LEN - PACKET_LEN;
        if let Some(Ok(packet)) = frame.get(payload..).map(Packet::decode) {
            session.receive(&packet, now_ns);
        }
    }

    /// Does what is due by now. Returns what it transmits, and to whom.
    pub(super) fn run(&mut self, now_ns: u64, rng: &mut Rng) -> Vec<(usize, Vec<u8>)> {
        let mut sent = Vec::new();
        for (other, session) in &mut self.sessions {
            if (1..=now_ns).contains(&session.session.detect_deadline_ns) {
                session.expire(now_ns);
            }
            sent.extend(
                session
                    .tick(now_ns, VERSION, rng.u32(..))
                    .map(|packet| (*other, packet)),
            );
        }
        let frames = sent.iter();
        frames
            .map(|(other, packet)| (*other, self.frame(*other, packet)))
            .collect()
    }

    /// Returns when something is due, ns.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let times = self.sessions.values().map(|deployed| {
            let session = &deployed.session;
            match session.detect_deadline_ns {
                0 => session.next_tx_ns,
                deadline_ns => session.next_tx_ns.min(deadline_ns),
            }
        });
        times.min()
    }

    fn frame(&self, other: usize, packet: &Packet) -> Vec<u8> {
        let mut frame = [0; DATAGRAM_LEN];
        let (from, to) = (address_of(self.node).octets(), address_of(other).octets());
        write(&mut frame, &from, &to, MARKS, packet, UdpChecksum::Full);
        frame.to_vec()
    }
}
