//! The time of the engine's next appointment, of all that its owners have.

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;

/// How long a flood of notifications may keep due work waiting, ns.
pub(crate) const LATEST_NS: u64 = 1_000_000_000;

impl<H: Hands> Engine<H> {
    /// Returns when the engine's next [`Turn::Due`] is, ns.
    ///
    /// [`Turn::Due`]: crate::engine::turn::Turn::Due
    pub(crate) fn due_ns(&mut self) -> Option<u64> {
        let due_ns = [
            self.sessions.next_look_ns(),
            self.closings_due_ns(),
            self.agenda.next_ns(),
            self.sessions.damping().next_ns(),
        ];
        due_ns.into_iter().flatten().min()
    }

    /// Returns when the next farewell packet or the next try of a route change is due, ns.
    pub(crate) fn closings_due_ns(&self) -> Option<u64> {
        let due_ns = [self.closings.due_ns(), self.jobs.next_retry_ns()];
        due_ns.into_iter().flatten().min()
    }
}
