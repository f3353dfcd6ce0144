//! Two ends, a link that delays and loses, and a virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::node::{Habit, Node};
use crate::support::Rng;
use dz_common::packet::Packet;

/// What the link does to a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// Shortest one-way delay.
    pub(crate) delay_ns: u64,
    /// Longest additional delay, uniform: packets may overtake one another.
    pub(crate) jitter_ns: u64,
    /// Packets lost, in percent.
    pub(crate) loss: u64,
}

impl Quality {
    pub(crate) const fn delay(delay_ns: u64) -> Self {
        Self {
            delay_ns,
            jitter_ns: 0,
            loss: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A packet arrives at this end; its index in `in_flight`.
    Arrival(usize, usize),
    /// This end's clock looks at the session.
    Clock(usize),
}

pub(crate) struct Link {
    pub(crate) ends: [Node; 2],
    pub(crate) quality: Quality,
    /// Nothing gets through.
    pub(crate) cut: bool,
    /// Nothing gets through to the first end.
    pub(crate) deaf: bool,
    pub(crate) now_ns: u64,
    in_flight: Vec<Packet>,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    sequence: u64,
    rng: Rng,
}

impl Link {
    /// The clocks of the two ends first look at `first_ns`.
    pub(crate) fn new(ends: [Node; 2], quality: Quality, first_ns: [u64; 2], rng: Rng) -> Self {
        let mut link = Self {
            ends,
            quality,
            cut: false,
            deaf: false,
            now_ns: 0,
            in_flight: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            rng,
        };
        for (end, at_ns) in first_ns.into_iter().enumerate() {
            link.at(at_ns, What::Clock(end));
        }
        link
    }

    pub(crate) fn run_until(&mut self, end_ns: u64) {
        self.run_while(end_ns, |_| true);
    }

    /// Runs until `end_ns` or until `going` says no, checked after every event.
    pub(crate) fn run_while(&mut self, end_ns: u64, going: impl Fn(&Self) -> bool) {
        while going(self) {
            let next_ns = self
                .queue
                .peek()
                .map_or(u64::MAX, |Reverse((at_ns, ..))| *at_ns);
            let (deadline_ns, expiring) = self.next_deadline();
            if next_ns.min(deadline_ns) > end_ns {
                self.now_ns = end_ns;
                return;
            }
            if deadline_ns <= next_ns {
                self.now_ns = deadline_ns;
                self.ends[expiring].expire(deadline_ns);
                // The kernel's event wakes the agent, whose clock then looks.
                self.look(expiring);
                continue;
            }
            let Some(Reverse((at_ns, _, what))) = self.queue.pop() else {
                return;
            };
            self.now_ns = at_ns;
            match what {
                What::Arrival(end, index) => {
                    let packet = self.in_flight[index];
                    let answer = self.ends[end].receive(&packet, at_ns);
                    self.send(end, answer);
                }
                What::Clock(end) => {
                    let next_ns = self.look(end);
                    assert!(next_ns > at_ns, "the clock would spin");
                    self.at(next_ns, What::Clock(end));
                }
            }
        }
    }

    fn look(&mut self, end: usize) -> u64 {
        if self.ends[end].habit == Habit::Frozen {
            return self.now_ns + 1_000_000;
        }
        let (packet, next_ns) = self.ends[end].tick(self.now_ns);
        self.send(end, packet);
        next_ns
    }

    fn next_deadline(&self) -> (u64, usize) {
        let [a, b] = [0, 1].map(|end| (self.ends[end].entry.scan_deadline_ns(), end));
        a.min(b)
    }

    fn send(&mut self, from: usize, packet: Option<Packet>) {
        let Some(packet) = packet else { return };
        if self.cut || self.deaf && from == 1 || self.rng.chance(self.quality.loss) {
            return;
        }
        let delay_ns = self.quality.delay_ns + self.rng.below(self.quality.jitter_ns + 1);
        self.in_flight.push(packet);
        self.at(
            self.now_ns + delay_ns,
            What::Arrival(1 - from, self.in_flight.len() - 1),
        );
    }

    fn at(&mut self, at_ns: u64, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((at_ns, self.sequence, what)));
    }
}
