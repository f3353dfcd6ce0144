//! One end of the simulation: a session entry, its clock, and what it did.

use crate::support::{CONFIG, MS, Rng, entry};
use dz_common::counters::Counter;
use dz_common::deployed::{Deployed, Release};
use dz_common::entry::Transition;
use dz_common::map::SessionEntry;
use dz_common::pacing::{Tick, ahead_ns, due_now_stamp};
use dz_common::packet::{Packet, State};
use dz_common::session::{NS_PER_US, Session, Timers};

/// What an end does besides running the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Answers what it receives and transmits on its clock, like ours.
    Answering,
    /// A deployed client: by its rules, and on its clock only.
    Deployed(Release),
    /// Answers, but nobody runs its clock: our agent frozen.
    Frozen,
}

pub(crate) struct Node {
    pub(crate) entry: SessionEntry,
    pub(crate) habit: Habit,
    /// What is left in the slot for our clock.
    stamp: u32,
    /// Every transmission: when, and in which state.
    pub(crate) sent: Vec<(u64, State)>,
    /// Every state change: when, and what.
    pub(crate) changes: Vec<(u64, Transition)>,
}

impl Node {
    pub(crate) fn new(
        timers: Timers,
        discr: u32,
        habit: Habit,
        now_ns: u64,
        rng: &mut Rng,
    ) -> Self {
        let session = match habit {
            Habit::Deployed(release) => Deployed::new(timers, discr, release, now_ns).session,
            _ => Session::new(timers, discr, now_ns),
        };
        let entry = entry(session, rng.u32());
        Self {
            entry,
            habit,
            stamp: due_now_stamp(now_ns),
            sent: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.entry.session.state
    }

    /// When the node last entered Up, if it is Up.
    pub(crate) fn up_since(&self) -> Option<u64> {
        let (at_ns, last) = self.changes.last()?;
        (last.to == State::Up).then_some(*at_ns)
    }

    /// Receives a packet; returns what goes out at once.
    pub(crate) fn receive(&mut self, packet: &Packet, now_ns: u64) -> Option<Packet> {
        if let Habit::Deployed(release) = self.habit {
            self.as_deployed(now_ns, release, |deployed| {
                deployed.receive(packet, now_ns);
            });
            return None;
        }
        let outcome = self.entry.receive(packet, &CONFIG, now_ns, true);
        // The other answers are no transmissions: the session takes no note of them.
        let answered = outcome.exit == Counter::RxAnswered;
        let changed = outcome.transition.is_some();
        if let Some(stamp) = self.entry.due_stamp(answered, changed, now_ns) {
            self.stamp = stamp;
            let session = &self.entry.session;
            let longest_ns = u64::from(session.tx_interval_us()) * NS_PER_US / 10 * 11;
            let due_ns = ahead_ns(stamp, now_ns).unwrap_or(now_ns);
            assert!(due_ns <= now_ns + longest_ns + 1_024, "{session:?}");
        }
        if let Some(transition) = outcome.transition {
            self.changes.push((now_ns, transition));
        }
        if answered {
            self.sent.push((now_ns, self.state()));
        }
        outcome.answer
    }

    /// The clock looks at the session; returns what goes out and when to look again.
    pub(crate) fn tick(&mut self, now_ns: u64) -> (Option<Packet>, u64) {
        if let Habit::Deployed(release) = self.habit {
            let random = self.entry.draw();
            let packet = self.as_deployed(now_ns, release, |deployed| {
                deployed.tick(now_ns, CONFIG.version, random)
            });
            if packet.is_some() {
                self.sent.push((now_ns, self.state()));
            }
            return (packet, now_ns + MS); // its time may have come sooner by then
        }
        if let Some(later_ns) = ahead_ns(self.stamp, now_ns) {
            return (None, later_ns);
        }
        let random = self.entry.draw();
        let (decision, next_ns) = self.entry.session.tick(now_ns, random);
        let packet = (decision == Tick::Send).then(|| {
            self.sent.push((now_ns, self.state()));
            self.entry.session.packet(CONFIG.version)
        });
        (packet, next_ns)
    }

    /// The deadline has come.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        if let Habit::Deployed(release) = self.habit {
            let expired = self.as_deployed(now_ns, release, |deployed| deployed.expire(now_ns));
            assert!(expired, "a deadline that takes nothing down");
            return;
        }
        let effect = self.entry.expire_slot(now_ns);
        let transition = effect
            .transition
            .expect("a deadline that takes nothing down");
        self.stamp = effect.next_due.unwrap_or(self.stamp);
        self.changes.push((now_ns, transition));
    }

    /// Does something to the session of a deployed client, and notes how its state has changed.
    fn as_deployed<T>(
        &mut self,
        now_ns: u64,
        release: Release,
        step: impl FnOnce(&mut Deployed) -> T,
    ) -> T {
        let before = self.entry.session;
        let mut deployed = Deployed {
            session: before,
            release,
        };
        let result = step(&mut deployed);
        self.entry.session = deployed.session;
        if self.state() != before.state {
            let transition = Transition {
                from: before.state,
                to: self.state(),
                reason: self.entry.session.down_reason,
                since_ns: now_ns,
                sequence: self.entry.session.transitions,
            };
            self.changes.push((now_ns, transition));
        }
        result
    }

    /// Transmissions in `from_ns..to_ns`.
    pub(crate) fn sent_between(&self, from_ns: u64, to_ns: u64) -> usize {
        self.sent
            .iter()
            .filter(|(at_ns, _)| (from_ns..to_ns).contains(at_ns))
            .count()
    }

    /// Most transmissions in any window that is half-open and `window_ns` long.
    pub(crate) fn most_sent_within(&self, window_ns: u64) -> usize {
        let at = |i: usize| self.sent[i].0;
        let within = |i| {
            (i..self.sent.len())
                .take_while(|&j| at(j) < at(i) + window_ns)
                .count()
        };
        (0..self.sent.len()).map(within).max().unwrap_or(0)
    }
}
