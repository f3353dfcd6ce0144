//! Applies packets, deadlines and commands to an entry of `dz_sessions` and to its deadline slot.

use crate::counters::Counter;
#[cfg(doc)]
use crate::map::Deadline;
use crate::map::{
    Config, Event, HELD_DAMPED, HELD_NEW, HELD_QUIET, NEVER_NS, SessionEntry, SessionKey,
    bpf_spin_lock,
};
use crate::pacing::{Answer, due_now_stamp, due_stamp, long_ago_stamp};
use crate::packet::{Packet, State, Version};
use crate::session::{DownReason, Receipt, Session};

/// A state change, with the facts that an [`Event`] carries.
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
    /// Makes the event to emit.
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

/// The effect of a deadline or a command on a session: new values of its slot, and the event that the
/// agent is told. Its fields are read under the session's lock and used after it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// [`Deadline::deadline_ns`] from now on, to be stored under the lock.
    pub deadline_ns: u64,
    /// [`Deadline::next_due`] from now on, if it is to change, to be stored under the lock.
    pub next_due: Option<u32>,
    /// The state changed.
    pub transition: Option<Transition>,
    /// The session's generation.
    pub generation: u32,
    /// The session's block of counters.
    pub block: u32,
}

impl Effect {
    /// Makes the event to emit after the lock is released, if the state changed.
    #[inline(always)]
    pub fn event(&self, key: SessionKey, at_ns: u64) -> Option<Event> {
        self.transition
            .map(|transition| transition.event(key, self.generation, at_ns))
    }
}

/// The effect of a valid packet on its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketEffect {
    /// The rule that decided about it.
    pub receipt: Receipt,
    /// Whether the state changed; only then `transition` means anything.
    pub changed: bool,
    /// How the state changed.
    pub transition: Transition,
}

/// The outcome of a valid packet: its effect and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The way out.
    pub exit: Counter,
    /// Rule 5 ignored a stale Down.
    pub stale_down: bool,
    /// The state changed, and the agent is told.
    pub transition: Option<Transition>,
    /// Transmit this.
    pub answer: Option<Packet>,
}

/// The fields of an entry that the agent sets when it inserts the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Interface, local address and peer of the session.
    pub key: SessionKey,
    /// Index into `dz_deadlines`.
    pub slot: u32,
    /// Tells it from an earlier one in the same memory.
    pub generation: u32,
    /// Its block in `dz_counters`.
    pub block: u32,
    /// Seed of the generator that jitter is drawn from; any number.
    pub seed: u32,
}

/// Says whether a session with this [`SessionEntry::held`] is held.
#[inline(always)]
pub const fn is_held(held: u8) -> bool {
    held & (HELD_DAMPED | HELD_NEW) != 0
}

/// Says whether the agent is told of changes of state that packets make in a session with this
/// [`SessionEntry::held`].
#[inline(always)]
pub const fn tells_of_packets(held: u8) -> bool {
    held & HELD_QUIET == 0
}

impl SessionEntry {
    /// Makes the entry of a new session.
    #[must_use]
    pub const fn new(identity: Identity, session: Session) -> Self {
        Self {
            lock: bpf_spin_lock { val: 0 },
            detour: 0,
            slot: identity.slot,
            generation: identity.generation,
            block: identity.block,
            key: identity.key,
            random: identity.seed | 1,
            introduced: long_ago_stamp(session.since_ns),
            received: 0,
            answered: 0,
            originated: 0,
            last_seen_ns: 0,
            session,
            neighbour: [0; 6],
            introduced_unknown: 0,
            held: 0,
        }
    }

    /// Says whether the session is held: Up or not, it does not count as Up.
    #[inline(always)]
    pub const fn is_held(&self) -> bool {
        is_held(self.held)
    }

    /// Says whether the session counts as Up: it is, and is not held.
    #[inline(always)]
    pub const fn counts_as_up(&self) -> bool {
        matches!(self.session.state, State::Up) && !self.is_held()
    }

    /// Applies a valid packet to its session and decides on the answer, on a layer-3 device: [`Self::take`],
    /// then [`Self::reply`]. `attended`: the agent's heartbeat is recent, so answering is allowed.
    pub fn receive(
        &mut self,
        packet: &Packet,
        config: &Config,
        now_ns: u64,
        attended: bool,
    ) -> Outcome {
        let taken = self.take(packet, now_ns);
        let barred = (!attended).then_some(Counter::RxUnattended);
        let exit = self.reply(taken.receipt, taken.changed, barred, true, now_ns);
        Outcome {
            exit,
            stale_down: matches!(taken.receipt, Receipt::StaleDown),
            transition: (taken.changed && tells_of_packets(self.held)).then_some(taken.transition),
            answer: self.answer(exit, packet.my_discr, config.version),
        }
    }

    /// Steps the session by a valid packet, to be called under the lock.
    #[inline(always)]
    pub fn take(&mut self, packet: &Packet, now_ns: u64) -> PacketEffect {
        let before = self.session.state;
        let converging_ns = self.session.first_rx_ns;
        self.received += 1;
        let receipt = self.session.receive(packet, now_ns);
        PacketEffect {
            receipt,
            changed: self.session.state != before,
            transition: self.transition(before, converging_ns, now_ns),
        }
    }

    /// Decides on the answer to a packet that was taken, to be called under the lock. Returns the way
    /// out; [`Self::answer`] has the packet that goes with it. `barred`: the way out of all that would be
    /// answered, where answering is out of the question. `reachable`: it is known where a frame to the peer
    /// goes, other than back to where this one came from.
    #[inline(always)]
    pub fn reply(
        &mut self,
        receipt: Receipt,
        changed: bool,
        barred: Option<Counter>,
        reachable: bool,
        now_ns: u64,
    ) -> Counter {
        let returning = match receipt {
            Receipt::AdminDown => return Counter::DropAdminDown,
            Receipt::UnprovenAdmin => return Counter::DropUnprovenAdminDown,
            Receipt::ZeroEcho => return Counter::DropZeroYourDiscriminator,
            Receipt::WrongDiscriminator => return Counter::DropWrongDiscriminator,
            Receipt::RemoteAdmin => return Counter::RxRemoteAdmin,
            Receipt::Unproven => Some(false),
            Receipt::Returning => Some(true),
            Receipt::RemoteDown | Receipt::StaleDown | Receipt::Accepted => None,
        };
        if let Some(exit) = barred {
            return exit;
        }
        if let Some(returning) = returning {
            if !reachable {
                return Counter::RxUnprovenNoNeighbour;
            }
            return self.introduce(returning, now_ns);
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

    /// Decides whether an unproven packet gets its stateless answer: one per ¾ of the transmit
    /// interval. `returning`: it is a Down with the discriminator of the peer as it was last proven,
    /// which no blind sender can make; so it need not wait for an answer that went to somebody else.
    #[inline(always)]
    fn introduce(&mut self, returning: bool, now_ns: u64) -> Counter {
        let overtakes = returning && self.introduced_unknown != 0;
        if self.session.is_paced(self.introduced, now_ns) && !overtakes {
            return Counter::RxUnprovenPaced;
        }
        self.introduced = due_now_stamp(now_ns);
        self.introduced_unknown = !returning as u8;
        Counter::RxUnprovenAnswered
    }

    /// Makes the packet that goes with an exit that [`Self::reply`] decided on, if one does.
    /// `peer_discr`: the sender's discriminator in the packet that was received.
    #[inline(always)]
    pub const fn answer(&self, exit: Counter, peer_discr: u32, version: Version) -> Option<Packet> {
        match exit {
            Counter::RxAnswered => Some(self.session.packet(version)),
            Counter::RxUnprovenAnswered => Some(self.session.introduction(peer_discr, version)),
            _ => None,
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

    /// Returns the deadline that the session's slot should have, as [`Deadline::deadline_ns`].
    #[inline(always)]
    pub const fn scan_deadline_ns(&self) -> u64 {
        match self.session.detect_deadline_ns {
            0 => NEVER_NS,
            deadline_ns => deadline_ns,
        }
    }

    /// Returns [`Deadline::next_due`] after a packet or a deadline, if it is to change.
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

    /// Draws the next random number (xorshift32, Marsaglia 2003): jitter needs spread, not secrecy, and
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
