//! What was asked of the agent, and what was seen. Recorded while it happens, judged afterwards.

use dz_common::packet::State;
use dz_tests::route_log::Mark;
use dz_tests::rtnl::Change;

/// A request about a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) connect: bool,
    /// A mark that was made, and an instant that was taken, before the request was sent.
    pub(super) sent: (Mark, u64),
    /// After the reply had come; none if it has not.
    pub(super) answered: Option<(Mark, u64)>,
}

/// A look at something: everything in it was read between the two instants.
#[derive(Clone, Debug, Default)]
pub(super) struct Look<T> {
    pub(super) begin_ns: u64,
    pub(super) end_ns: u64,
    /// What was found of each peer; sorted by peer.
    pub(super) found: Vec<(u16, T)>,
}

impl<T> Look<T> {
    pub(super) fn of(&self, peer: u16) -> Option<&T> {
        let at = self.found.binary_search_by_key(&peer, |(peer, _)| *peer);
        at.ok().map(|at| &self.found[at].1)
    }
}

/// A session as it was found: generation and state.
pub(super) type Seen = (u32, State);

/// A round of looks, in this order, and a mark behind the first.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) peers: Look<()>,
    pub(super) sessions: Look<Seen>,
    pub(super) routes: Look<()>,
    pub(super) sessions_after: Look<Seen>,
    pub(super) mark: Mark,
}

/// Everything about a run.
#[derive(Debug, Default)]
pub(super) struct History {
    /// What was asked about each peer, in order.
    pub(super) acts: Vec<Vec<Act>>,
    pub(super) rounds: Vec<Round>,
    /// The first of it is the first change since before the first request.
    pub(super) changes: Vec<Change>,
    /// Our protocol number and interface: what makes a route the agent's.
    pub(super) ours: (u8, u32),
    /// Generations of a session inserted before everything, and of one inserted after it; none if it
    /// did not come to an end.
    pub(super) generations: Option<(u32, u32)>,
}
