//! What carries packets between nodes, each direction by itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use super::beside::Mac;

const MS: u64 = 1_000_000;

/// How one direction is at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Nothing gets through.
    pub(super) cut: bool,
    /// Of a hundred packets so many are lost.
    pub(super) loss: u8,
    /// Of a hundred packets so many come twice.
    pub(super) doubled: u8,
    /// Further delay of up to so much, ms: packets overtake each other.
    pub(super) jitter_ms: u16,
}

/// A packet under way. Those that arrive at the same time do so in the order in which they left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Packet {
    pub(super) at_ns: u64,
    number: u64,
    pub(super) to: usize,
    pub(super) macs: (Mac, Mac),
    pub(super) frame: Vec<u8>,
}

/// All directions, and what is under way.
pub(super) struct Wire {
    nodes: usize,
    ways: Vec<Way>,
    under_way: BinaryHeap<Reverse<Packet>>,
    sent: u64,
}

impl Wire {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            ways: vec![Way::default(); nodes * nodes],
            under_way: BinaryHeap::new(),
            sent: 0,
        }
    }

    pub(super) const fn nodes(&self) -> usize {
        self.nodes
    }

    pub(super) fn way(&mut self, from: usize, to: usize) -> &mut Way {
        &mut self.ways[from * self.nodes + to]
    }

    /// Makes every direction well again.
    pub(super) fn heal(&mut self) {
        self.ways.fill(Way::default());
    }

    /// Says whether something small is lost on its way.
    pub(super) fn loses(&mut self, from: usize, to: usize, rng: &mut Rng) -> bool {
        let way = *self.way(from, to);
        way.cut || rng.u8(..100) < way.loss
    }

    /// Sends a packet, with the Ethernet addresses that it carries where the far end is Ethernet: its own, and
    /// the sender's.
    pub(super) fn send(
        &mut self,
        (from, to): (usize, usize),
        macs: (Mac, Mac),
        frame: Vec<u8>,
        now_ns: u64,
        rng: &mut Rng,
    ) {
        if self.loses(from, to, rng) {
            return;
        }
        let way = *self.way(from, to);
        let copies = 1 + u32::from(rng.u8(..100) < way.doubled);
        for _ in 0..copies {
            self.sent += 1;
            let jitter_ns = u64::from(way.jitter_ms) * MS;
            self.under_way.push(Reverse(Packet {
                at_ns: now_ns + rng.u64(MS..5 * MS) + rng.u64(..=jitter_ns),
                number: self.sent,
                to,
                macs,
                frame: frame.clone(),
            }));
        }
    }

    /// Returns when the next packet arrives, ns.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.under_way.peek().map(|Reverse(packet)| packet.at_ns)
    }

    pub(super) fn take(&mut self, now_ns: u64) -> Option<Packet> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.under_way.pop().map(|Reverse(packet)| packet)
    }
}
