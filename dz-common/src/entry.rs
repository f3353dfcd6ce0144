//! What a packet, a deadline or a command does to an entry of `dz_sessions`, and to its slot.

use crate::counters::Counter;
#[cfg(doc)]
use crate::map::Deadline;
use crate::map::{Config, Event, NEVER_NS, SessionEntry, SessionKey};
use crate::pacing::{Answer, due_stamp};
use crate::packet::{Packet, State};
use crate::session::{DownReason, Receipt};

/// A state change, with what an [`Event`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Why, if it went down.
    pub reason: DownReason,
    /// See [`Event::since_ns`].
    pub since_ns: u64,
    /// See [`Event::sequence`].
    pub sequence: u32,
}

impl Transition {
    /// The event to emit.
    #[inline(always)]
    pub const fn event(&self, key: SessionKey, generation: u32, at_ns: u64) -> Event {
        Event {
            key,
            generation,
            at_ns,
            since_ns: self.since_ns,
            sequence: self.sequence,
            from: self.from,
            to: self.to,
            reason: self.reason,
            reserved: 0,
        }
    }
}

/// What a valid packet did to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What the session made of it.
    pub receipt: Receipt,
    /// Another discriminator became ours.
    pub adopted: bool,
    /// The state changed, as `transition` says; it says nothing otherwise.
    pub changed: bool,
    /// How the state changed.
    pub transition: Transition,
}

/// What a valid packet led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The way out.
    pub exit: Counter,
    /// Rule 5 ignored a stale Down.
    pub stale_down: bool,
    /// Another discriminator became ours.
    pub adopted: bool,
    /// The state changed.
    pub transition: Option<Transition>,
    /// Transmit this.
    pub answer: Option<Packet>,
}

impl SessionEntry {
    /// Everything a valid packet does to its session: [`Self::take`], then [`Self::reply`].
    /// `attended`: the agent's heartbeat is recent, so answering is allowed.
    pub fn receive(
        &mut self,
        packet: &Packet,
        config: &Config,
        now_ns: u64,
        attended: bool,
    ) -> Outcome {
        let taken = self.take(packet, now_ns);
        let exit = self.reply(taken.receipt, taken.changed, attended, now_ns);
        let answered = matches!(exit, Counter::RxAnswered);
        Outcome {
            exit,
            stale_down: matches!(taken.receipt, Receipt::StaleDown),
            adopted: taken.adopted,
            transition: taken.changed.then_some(taken.transition),
            answer: answered.then(|| self.session.packet(config.version)),
        }
    }

    /// Steps the session by a valid packet, to be called under the lock.
    #[inline(always)]
    pub fn take(&mut self, packet: &Packet, now_ns: u64) -> Taken {
        let before = self.session.state;
        let discr = self.session.local_discr;
        let converging_ns = self.session.first_rx_ns;
        self.received += 1;
        let receipt = self.session.receive(packet, now_ns);
        Taken {
            receipt,
            adopted: self.session.local_discr != discr,
            changed: self.session.state != before,
            transition: self.transition(before, converging_ns, now_ns),
        }
    }

    /// Decides on the answer to a packet that was taken, to be called under the lock. Returns the way
    /// out; if it is [`Counter::RxAnswered`], [`crate::session::Session::packet`] is to be transmitted.
    #[inline(always)]
    pub fn reply(
        &mut self,
        receipt: Receipt,
        changed: bool,
        attended: bool,
        now_ns: u64,
    ) -> Counter {
        match receipt {
            Receipt::AdminDown => return Counter::DropAdminDown,
            Receipt::WrongDiscriminator => return Counter::DropWrongDiscriminator,
            Receipt::RemoteAdmin => return Counter::RxRemoteAdmin,
            Receipt::RemoteDown | Receipt::StaleDown | Receipt::Accepted => {}
        }
        if !attended {
            return Counter::RxUnattended;
        }
        match self.session.answer(changed, now_ns) {
            Answer::Paced => Counter::RxPaced,
            Answer::BurstSpent => Counter::RxBurstSpent,
            Answer::Send => {
                self.answered += 1;
                Counter::RxAnswered
            }
        }
    }

    /// Takes the session Down if its deadline has passed, to be called under the lock.
    #[inline(always)]
    pub fn expire(&mut self, now_ns: u64) -> Option<Transition> {
        let before = self.session.state;
        let expired = self.session.expire(now_ns);
        expired.then(|| self.transition(before, 0, now_ns))
    }

    /// Puts the session in AdminDown, to be called under the lock.
    #[inline(always)]
    pub fn admin_down(&mut self, now_ns: u64) -> Option<Transition> {
        let before = self.session.state;
        let entered = self.session.admin_down(now_ns);
        entered.then(|| self.transition(before, 0, now_ns))
    }

    /// What the session should be scanned for, as [`Deadline::deadline_ns`].
    #[inline(always)]
    pub const fn scan_deadline_ns(&self) -> u64 {
        match self.session.detect_deadline_ns {
            0 => NEVER_NS,
            deadline_ns => deadline_ns,
        }
    }

    /// [`Deadline::next_due`] after a packet or a deadline, if it is to change.
    ///
    /// An answer has set the next transmission, and without back-off: a session that is Down answers
    /// only in the moment in which it goes there. So the stamp is an interval with its jitter away at
    /// most, or, after a change of state without an answer, an interval.
    #[inline(always)]
    pub fn due_stamp(&self, answered: bool, changed: bool, now_ns: u64) -> Option<u32> {
        if answered {
            Some(due_stamp(self.session.next_tx_ns))
        } else if changed {
            Some(due_stamp(self.session.next_due_ns(now_ns)))
        } else {
            None
        }
    }

    /// The next random number (xorshift32, Marsaglia 2003): jitter needs spread, not secrecy, and
    /// a generator in the entry lets a test replay what the kernel did.
    #[inline(always)]
    pub fn draw(&mut self) -> u32 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random = x;
        x
    }

    #[inline(always)]
    fn transition(&self, before: State, converging_ns: u64, now_ns: u64) -> Transition {
        let session = &self.session;
        let since_ns = match (session.state, session.down_reason) {
            (State::Up, _) if converging_ns != 0 => converging_ns,
            (State::Down, DownReason::Timeout) => {
                // The first packet was missing one interval after the last.
                session.last_rx_ns + session.rx_interval_us() as u64 * crate::session::NS_PER_US
            }
            _ => now_ns,
        };
        Transition {
            from: before,
            to: session.state,
            reason: session.down_reason,
            since_ns,
            sequence: session.transitions,
        }
    }
}
