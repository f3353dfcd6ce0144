//! All nodes, and what is between them, step by step.

use clap::{Args, Command as Clap, FromArgMatches};
use fastrand::Rng;

use super::client::Client;
use super::daemon::CONDITIONS;
use super::finding::{Finding, Report};
use super::machine::Machine;
use super::node::Node;
use super::segment::Segment;
use super::story::Story;
use super::wire::Wire;
use crate::settings::RunOptions;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MS: u64 = 1_000_000;
/// How long after everything is well again all have agreed.
pub(super) const AGREED_NS: u64 = 30 * SECOND;
/// A story begins when a machine has been up for a while: 0 is no time.
pub(super) const BEGUN_NS: u64 = 100 * SECOND;

pub(super) struct World {
    pub(super) now_ns: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) wire: Wire,
    pub(super) segment: Segment,
    pub(super) rng: Rng,
    /// Of agents that follow nobody, and of those that do.
    pub(super) options: [RunOptions; 2],
    pub(super) report: Report,
    pub(super) healed: bool,
    /// Until then the operators see to it that what they want is so.
    pub(super) settled_ns: u64,
}

fn options(more: &[&str]) -> RunOptions {
    let command = RunOptions::augment_args(Clap::new("sim").no_binary_name(true));
    let arguments = ["--max-sessions", "64"].iter().chain(more);
    let matches = command.get_matches_from(arguments);
    RunOptions::from_arg_matches(&matches).expect("options that are in order")
}

impl World {
    pub(super) fn new(story: &Story) -> Self {
        let segment = Segment::new(story.nodes);
        let node = |number: usize| {
            let client = story.clients[number].map(|release| Client::new(number, release));
            let mac = story.ethernet[number].then(|| segment.mac(number));
            let mut machine = Machine::new(number, story.places[number], mac);
            machine.follows = story.follows[number];
            machine.kernel.borrow_mut().set_now_ns(BEGUN_NS);
            Node {
                client,
                ..Node::new(machine, BEGUN_NS)
            }
        };
        Self {
            now_ns: BEGUN_NS,
            nodes: (0..story.nodes).map(node).collect(),
            wire: Wire::new(story.nodes),
            segment,
            rng: Rng::with_seed(story.seed ^ 0x5eed),
            options: [&[][..], &CONDITIONS[..]].map(|more| {
                let hold_up = if story.hold_up { "700ms" } else { "0s" };
                options(&[more, &["--hold-up", hold_up]].concat())
            }),
            report: Report::default(),
            healed: false,
            settled_ns: 0,
        }
    }

    /// Sends a packet of a node that is not Ethernet, or is not to be looked at.
    pub(super) fn send(&mut self, from: usize, to: usize, packet: Vec<u8>) {
        let macs = (self.segment.mac(to), self.segment.mac(from));
        let (now_ns, rng) = (self.now_ns, &mut self.rng);
        self.wire.send((from, to), macs, packet, now_ns, rng);
    }

    pub(super) fn finding(&self, node: usize, what: String) -> Finding {
        let at_ns = self.now_ns - BEGUN_NS;
        Finding { at_ns, node, what }
    }
}
