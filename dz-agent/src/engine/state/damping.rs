//! Damping: which sessions are held, and for how long.
//!
//! A session that is held does not count as Up: it has no route of ours, and the gate keeps packets from its
//! peer. It is held when it went Down more than five times within 30 s, or others took its route more than
//! twenty times: 5 s at first, twice as long at each further time, 60 s at most. After five minutes Up that is
//! forgotten. A Down that the agent itself brings about, closing the session, does not count.
//!
//! Two more things are kept here. With `--hold-up` a session is held until it has been Up for so long. And a
//! session whose state changes more than twenty times within a second is *quiet* for a second, or as long as it is
//! held: the kernel programs make no events of changes by its packets, so that no peer drives our work. What
//! has happened meanwhile is read when the quiet ends.
//!
//! The truth is in the session's entry (`SessionEntry::held`), where the gate reads it. A session that has been
//! well has no record here.

use std::collections::BTreeSet;

use dz_common::map::{Event, HELD_DAMPED, HELD_NEW, HELD_QUIET, SessionEntry, SessionKey};
use dz_common::packet::State;

use super::recent::Recent;
use crate::hash::HashMap;
use crate::reason::Held;

const SECOND_NS: u64 = 1_000_000_000;
/// Most Downs within the window that are borne.
const DOWNS: usize = 5;
/// Most losses of a route within the window that are borne.
const LOSSES: usize = 20;
/// The first hold of a session, ns.
const FIRST_HOLD_NS: u64 = 5 * SECOND_NS;
/// The longest hold, ns.
const LONGEST_HOLD_NS: u64 = 60 * SECOND_NS;
/// After so long Up nothing is remembered of a session, ns.
const FORGIVEN_NS: u64 = 300 * SECOND_NS;
/// Most changes of a session's state within [`BURST_NS`] that the agent wants to be told of.
const CHANGES: u32 = 20;
/// The time in which changes of a session's state are counted, and for which it is quiet, ns.
const BURST_NS: u64 = SECOND_NS;

/// A time in which changes are not told.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    since_ns: u64,
    until_ns: u64,
    /// `ups` and `transitions` of the session when it began; none until that has been read.
    from: Option<(u32, u32)>,
}

/// The part of a session's past that matters.
#[derive(Debug, Default)]
struct Record {
    downs: Recent<DOWNS>,
    losses: Option<Box<Recent<LOSSES>>>,
    /// The hold under way: why, and until when, ns.
    hold: Option<(Held, u64)>,
    /// How often it has been held.
    holds: u32,
    /// When changes of its state began to be counted, ns, and their number.
    burst: (u64, u32),
    quiet: Option<Quiet>,
    /// With `--hold-up`, whether it went Down and has not been Up for long enough since.
    is_new: bool,
    /// When the session is to be reviewed, ns.
    due_ns: Option<u64>,
}

impl Record {
    fn hold(&mut self, why: Held, now_ns: u64) {
        let pause_ns = FIRST_HOLD_NS << self.holds.min(8);
        self.hold = Some((why, now_ns + pause_ns.min(LONGEST_HOLD_NS)));
        self.holds += 1;
        // Counted anew, also while it is held.
        (self.downs, self.losses) = (Recent::default(), None);
    }

    fn fall_quiet(&mut self, now_ns: u64) {
        let held_until_ns = self.hold.map_or(0, |(_, until_ns)| until_ns);
        self.quiet = Some(Quiet {
            since_ns: now_ns,
            until_ns: held_until_ns.max(now_ns + BURST_NS),
            from: None,
        });
        self.burst = (now_ns, 0);
    }
}

/// Which sessions are held, and which are quiet.
#[derive(Debug, Default)]
pub(crate) struct Damping {
    /// `--damping on`.
    is_on: bool,
    /// `--hold-up`, ns; 0: Up counts at once.
    hold_up_ns: u64,
    records: HashMap<SessionKey, Record>,
    /// When sessions are to be reviewed, by their records.
    due: BTreeSet<(u64, SessionKey)>,
}

impl Damping {
    /// Makes the owner. `is_on`: sessions are held for Downs and losses; `hold_up_ns`: how long a session must have
    /// been Up to count.
    pub(crate) fn new(is_on: bool, hold_up_ns: u64) -> Self {
        Self {
            is_on,
            hold_up_ns,
            ..Self::default()
        }
    }

    /// Returns `SessionEntry::held` of a new session.
    pub(crate) const fn at_first(&self) -> u8 {
        if self.hold_up_ns > 0 { HELD_NEW } else { 0 }
    }

    /// Notes a session that an earlier agent has left. Nothing is known of its past: one that was held is held
    /// for the shortest time once more.
    pub(crate) fn adopt(&mut self, entry: &SessionEntry, now_ns: u64) {
        if entry.held & HELD_DAMPED != 0 && self.is_on {
            let record = self.records.entry(entry.key).or_default();
            record.hold(Held::TakenOver, now_ns);
            self.appoint(&entry.key, record_due_ns);
        }
    }

    /// Notes a change of state. Returns whether the session is to be reviewed now.
    pub(crate) fn changed(&mut self, event: &Event, now_ns: u64) -> bool {
        let (went_down, came_up) = (event.to == State::Down, event.to == State::Up);
        if event.to == State::AdminDown {
            return false; // our own doing
        }
        let is_known = self.records.contains_key(&event.key);
        let begins = went_down || (came_up && self.hold_up_ns > 0);
        if !is_known && !begins {
            return false;
        }
        let (is_on, hold_up_ns) = (self.is_on, self.hold_up_ns);
        let record = self.records.entry(event.key).or_default();
        // Of changes that were told before the quiet began, the rest tells nothing new.
        if record
            .quiet
            .is_some_and(|quiet| event.at_ns <= quiet.since_ns)
        {
            return false;
        }
        let mut is_news = false;
        if went_down && event.from == State::Up {
            if record.downs.add(event.at_ns) && is_on {
                record.hold(Held::Flapping, now_ns);
                is_news = true;
            }
            if hold_up_ns > 0 {
                record.is_new = true;
                is_news = true;
            }
        }
        if event.at_ns.saturating_sub(record.burst.0) >= BURST_NS {
            record.burst = (event.at_ns, 0);
        }
        record.burst.1 += 1;
        if record.burst.1 > CHANGES {
            record.fall_quiet(now_ns);
            is_news = true;
        }
        if came_up && hold_up_ns > 0 {
            let counts_ns = event.at_ns.saturating_add(hold_up_ns);
            self.appoint(&event.key, |record| {
                [record_due_ns(record), Some(counts_ns)]
                    .into_iter()
                    .flatten()
                    .min()
            });
        }
        is_news
    }

    /// Notes that others have taken or changed a session's route. Returns whether the session is to be reviewed
    /// now.
    pub(crate) fn route_taken(&mut self, key: &SessionKey, now_ns: u64) -> bool {
        let record = self.records.entry(*key).or_default();
        let losses = record.losses.get_or_insert_default();
        if !losses.add(now_ns) || !self.is_on {
            return false;
        }
        record.hold(Held::RouteTaken, now_ns);
        true
    }

    /// Says whether others have taken a session's route so often that it is put back once a second only: damping
    /// is off, or the route stays for the session is passive.
    pub(crate) fn is_contested(&self, key: &SessionKey, now_ns: u64) -> bool {
        let Some(record) = self.records.get(key) else {
            return false;
        };
        let is_held = matches!(record.hold, Some((Held::RouteTaken, _)));
        let losses = record.losses.as_deref();
        is_held || losses.is_some_and(|losses| losses.is_full(now_ns))
    }

    /// Says whether a session's entry has another `SessionEntry::held` than it should have, so that it is to be
    /// reviewed.
    pub(crate) fn is_amiss(&self, entry: &SessionEntry, now_ns: u64) -> bool {
        if self.records.is_empty() && self.hold_up_ns == 0 {
            return entry.held != 0;
        }
        self.wanted(entry, now_ns) != entry.held
    }

    /// Ends what is over by now, and returns the `SessionEntry::held` that a session should have.
    pub(crate) fn review(&mut self, entry: &SessionEntry, now_ns: u64) -> u8 {
        let (is_on, hold_up_ns) = (self.is_on, self.hold_up_ns);
        let session = &entry.session;
        if let Some(record) = self.records.get_mut(&entry.key) {
            if let Some((_, until_ns)) = record.hold
                && until_ns <= now_ns
            {
                record.hold = None;
            }
            if let Some(quiet) = &mut record.quiet {
                let now = (session.ups, session.transitions);
                let from = *quiet.from.get_or_insert(now);
                if quiet.until_ns <= now_ns {
                    let quiet = *quiet;
                    record.quiet = None;
                    let (ups, changes) = (now.0.wrapping_sub(from.0), now.1.wrapping_sub(from.1));
                    let seconds = (now_ns - quiet.since_ns).div_ceil(BURST_NS);
                    let mut too_often = false;
                    for _ in 0..ups.min(DOWNS as u32 + 1) {
                        too_often |= record.downs.add(now_ns);
                    }
                    if too_often && is_on {
                        record.hold(Held::Flapping, now_ns);
                    }
                    if u64::from(changes) > u64::from(CHANGES) * seconds {
                        record.fall_quiet(now_ns);
                        record.quiet = record.quiet.map(|quiet| Quiet {
                            from: Some(now),
                            ..quiet
                        });
                    }
                }
            }
            let has_lasted = now_ns.saturating_sub(session.since_ns) >= hold_up_ns;
            record.is_new &= session.state != State::Up || !has_lasted;
        }
        let held = self.wanted(entry, now_ns);
        let counts_ns = session.since_ns.saturating_add(hold_up_ns);
        let waits = held & HELD_NEW != 0 && session.state == State::Up;
        if waits || self.records.contains_key(&entry.key) {
            self.records.entry(entry.key).or_default();
            self.appoint(&entry.key, |record| {
                let counts_ns = waits.then_some(counts_ns);
                [record_due_ns(record), counts_ns]
                    .into_iter()
                    .flatten()
                    .min()
            });
        }
        held
    }

    fn wanted(&self, entry: &SessionEntry, now_ns: u64) -> u8 {
        let record = self.records.get(&entry.key);
        let mut held = 0;
        if record.is_some_and(|record| record.hold.is_some_and(|(_, until_ns)| until_ns > now_ns)) {
            held |= HELD_DAMPED;
        }
        if record.is_some_and(|record| record.quiet.is_some_and(|quiet| quiet.until_ns > now_ns)) {
            held |= HELD_QUIET;
        }
        if self.hold_up_ns > 0 {
            let session = &entry.session;
            let has_lasted = now_ns.saturating_sub(session.since_ns) >= self.hold_up_ns;
            // A session that counts goes on counting until it goes Down: also one of an earlier agent without
            // this option.
            let is_new = entry.held & HELD_NEW != 0 || record.is_some_and(|record| record.is_new);
            if session.state != State::Up || (is_new && !has_lasted) {
                held |= HELD_NEW;
            }
        }
        held
    }

    /// Returns why damping holds a session, and until when, ns; none if it does not.
    pub(crate) fn hold_of(&self, key: &SessionKey) -> Option<(Held, u64)> {
        self.records.get(key)?.hold
    }

    /// Returns when the first session is to be reviewed, ns.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.due.first().map(|(at_ns, _)| *at_ns)
    }

    /// Takes a session that is to be reviewed by now.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<SessionKey> {
        let &(at_ns, key) = self.due.first()?;
        if at_ns > now_ns {
            return None;
        }
        self.due.pop_first();
        if let Some(record) = self.records.get_mut(&key) {
            record.due_ns = None;
        }
        Some(key)
    }

    /// Forgets the past of sessions that have been well for long enough.
    pub(crate) fn forgive(&mut self, sessions: &[SessionEntry], now_ns: u64) {
        if self.records.is_empty() {
            return;
        }
        for entry in sessions {
            let Some(record) = self.records.get(&entry.key) else {
                continue;
            };
            let at_rest = record.hold.is_none() && record.quiet.is_none() && !record.is_new;
            let session = &entry.session;
            let is_good = session.state == State::Up
                && now_ns.saturating_sub(session.since_ns) >= FORGIVEN_NS;
            let losses = record.losses.as_deref();
            let is_blank = record.holds == 0
                && !record.downs.has_any(now_ns)
                && !losses.is_some_and(|losses| losses.has_any(now_ns));
            if at_rest && record.due_ns.is_none() && (is_good || is_blank) {
                self.records.remove(&entry.key);
            }
        }
    }

    /// Forgets a session that is gone.
    pub(crate) fn forget(&mut self, key: &SessionKey) {
        // Spares the hash: most of the time every session is well.
        if self.records.is_empty() {
            return;
        }
        if let Some(due_ns) = self.records.remove(key).and_then(|record| record.due_ns) {
            self.due.remove(&(due_ns, *key));
        }
    }

    /// Sets the time of a session's next review to what `at_ns` returns.
    fn appoint(&mut self, key: &SessionKey, at_ns: impl FnOnce(&Record) -> Option<u64>) {
        let Some(record) = self.records.get_mut(key) else {
            return;
        };
        let at_ns = at_ns(record);
        let before_ns = std::mem::replace(&mut record.due_ns, at_ns);
        if let Some(before_ns) = before_ns {
            self.due.remove(&(before_ns, *key));
        }
        if let Some(at_ns) = at_ns {
            self.due.insert((at_ns, *key));
        }
    }
}

/// Returns when a hold or a quiet ends, whichever is first, ns.
fn record_due_ns(record: &Record) -> Option<u64> {
    let hold_ns = record.hold.map(|(_, until_ns)| until_ns);
    let quiet_ns = record.quiet.map(|quiet| quiet.until_ns);
    [hold_ns, quiet_ns].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
