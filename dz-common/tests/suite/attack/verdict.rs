//! Compares what was seen with and without the attacker.

use super::attacker::Attacker;
use super::scenario::{ATTACK_END_NS, Story};
use super::world::{Learned, Log, Peer, Setting};
use crate::support::MS;
use dz_common::packet::{State, Version};
use dz_common::session::{Mode, NS_PER_US};

/// How much an attacker may change of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing: every transmission and change of state is the same to the nanosecond.
    Same,
    /// Two ends that know each other find together again. Answers to the attacker reach the other
    /// end, too, and may help; no end is Up later by more than an interval.
    WithinAnInterval,
    /// A peer whom we do not know yet, or no longer, competes with the attacker for our stateless
    /// answers, but needs none: our clock tells it, too, once we are Down and have backed off.
    WithinBackOff,
    /// Nothing but a stateless answer can help, and the attacker takes them all: only after he has
    /// stopped are both Up, within three intervals of the slower end, with back-off.
    OnceHeStops,
}

impl Promise {
    pub(crate) fn of(story: Story, peer: Peer, attacker: &Attacker) -> Self {
        match (story, peer) {
            // It clings to a discriminator that we do not have any more.
            (Story::OursForgets, Peer::Deployed(_)) => Self::OnceHeStops,
            // Neither knows the other, and both are flooded.
            (Story::ColdStart | Story::OursForgets | Story::PeerForgets, Peer::Ours)
                if attacker.aims_at == [true; 2] =>
            {
                Self::OnceHeStops
            }
            (Story::ColdStart | Story::OursForgets | Story::PeerForgets, _) => Self::WithinBackOff,
            (
                Story::Cut
                | Story::CutToUs
                | Story::CutFromUs
                | Story::OursRestarts
                | Story::PeerRestarts,
                Peer::Ours,
            ) => Self::WithinAnInterval,
            _ => Self::Same,
        }
    }
}

/// What was seen of both ends.
pub(crate) struct Pair<'a> {
    pub(crate) setting: &'a Setting,
    /// When what happens begins.
    pub(crate) at_ns: u64,
    pub(crate) without: &'a [Log; 2],
    pub(crate) with: &'a [Log; 2],
}

impl Pair<'_> {
    /// What the attacker has changed that he must not.
    pub(crate) fn violation(&self, promise: Promise) -> Option<String> {
        (0..2)
            .filter(|&who| who == 0 || self.setting.peer == Peer::Ours)
            .find_map(|who| self.believed(who))
            .or_else(|| self.kept(promise))
    }

    /// Whom one of our ends has believed without proof, and whether it has let itself be used.
    fn believed(&self, who: usize) -> Option<String> {
        let log = &self.with[who];
        if let Some(at_ns) = log.believed_nobody_ns.first() {
            return Some(format!("end {who} is Up at {at_ns} ns, the peer is silent"));
        }
        let theirs = &self.setting.timers[1 - who];
        let known: [Learned; 2] = [
            (Mode::Unknown, Version::new([0; 4]), 0, 0),
            (
                theirs.mode,
                self.setting.version(1 - who),
                theirs.desired_min_tx_us,
                theirs.required_min_rx_us,
            ),
        ];
        if let Some(learned) = log.learned.iter().find(|learned| !known.contains(learned)) {
            return Some(format!("end {who} has learned {learned:?}"));
        }
        // One per ¾ of its interval, and one more for a peer that overtakes.
        let own_us = self.setting.timers[who].desired_min_tx_us;
        let pace_ns = u64::from(own_us) * NS_PER_US * 3 / 4;
        let answers = &log.stateless_ns;
        let crowded = answers.windows(3).find(|at| at[2] - at[0] < pace_ns - MS);
        crowded.map(|at| format!("end {who} has answered at {at:?}"))
    }

    /// Whether the sessions are what they are without him.
    fn kept(&self, promise: Promise) -> Option<String> {
        let setting = self.setting;
        let interval_ns = setting.interval_ns();
        let backed_off_us = setting
            .timers
            .map(|timers| u64::from(timers.backoff_cap_us));
        match promise {
            Promise::Same => (0..2).find_map(|who| {
                let (without, with) = (&self.without[who], &self.with[who]);
                let same = without.changes == with.changes && without.sent_ns == with.sent_ns;
                (!same).then(|| format!("end {who} differs: {}", differing(without, with)))
            }),
            Promise::WithinAnInterval => self.later_than(interval_ns, true),
            Promise::WithinBackOff => {
                let ours_ns = backed_off_us[0] * NS_PER_US / 10 * 11;
                self.later_than(setting.detect_ns() + 2 * ours_ns + 2 * interval_ns, false)
            }
            Promise::OnceHeStops => {
                let longest_us = backed_off_us[0].max(backed_off_us[1]);
                let back_ns = ATTACK_END_NS + 3 * (longest_us * NS_PER_US / 10 * 11);
                self.both_up_from(back_ns)
            }
        }
    }

    /// Whether an end is not Up for longer than `slack_ns` while it is without him, or goes down
    /// more often.
    fn later_than(&self, slack_ns: u64, no_flap: bool) -> Option<String> {
        (0..2).find_map(|who| {
            let end_ns = self.setting.end_ns;
            let without = up_times(&self.without[who], end_ns);
            let with = up_times(&self.with[who], end_ns);
            let lost_ns = missing_ns(&without, &with);
            let flaps = with.len() > without.len() + usize::from(!no_flap);
            // A few are missing where the phase has shifted.
            let fewer = self.with[who].sent_ns.len() + 5 < self.without[who].sent_ns.len();
            (lost_ns > slack_ns || flaps || no_flap && fewer).then(|| {
                format!(
                    "end {who} is not Up for {} ms that it is without him: {}",
                    lost_ns / MS,
                    differing(&self.without[who], &self.with[who])
                )
            })
        })
    }

    /// Whether both are Up from some time on until the end, and were as without him until `at_ns`.
    fn both_up_from(&self, back_ns: u64) -> Option<String> {
        (0..2).find_map(|who| {
            let until = |log: &Log| {
                let early = log.changes.iter().filter(|change| change.0 < self.at_ns);
                early.copied().collect::<Vec<_>>()
            };
            if until(&self.without[who]) != until(&self.with[who]) {
                return Some(format!("end {who} differs before anything happens"));
            }
            let last = self.with[who].changes.last()?;
            (last.1 != State::Up || last.0 > back_ns)
                .then(|| format!("end {who} is late: {last:?}"))
        })
    }
}

/// The first change of state that differs, and the numbers of transmissions.
fn differing(without: &Log, with: &Log) -> String {
    let mut changes = without.changes.iter().zip(&with.changes);
    let first = changes.find(|(a, b)| a != b);
    format!(
        "first other change {first:?} of {} and {}, {} and {} sent",
        without.changes.len(),
        with.changes.len(),
        without.sent_ns.len(),
        with.sent_ns.len()
    )
}

/// From when to when the end was Up.
fn up_times(log: &Log, end_ns: u64) -> Vec<(u64, u64)> {
    let until = log.changes.iter().skip(1).map(|change| change.0);
    log.changes
        .iter()
        .zip(until.chain([end_ns]))
        .filter(|((_, state, _), _)| *state == State::Up)
        .map(|((from_ns, ..), until_ns)| (*from_ns, until_ns))
        .collect()
}

/// For how long `without` is Up and `with` is not.
fn missing_ns(without: &[(u64, u64)], with: &[(u64, u64)]) -> u64 {
    let common = |(from, until): &(u64, u64)| {
        let overlap = with
            .iter()
            .map(|(a, b)| b.min(until).saturating_sub(*a.max(from)));
        overlap.sum::<u64>()
    };
    without.iter().map(|up| (up.1 - up.0) - common(up)).sum()
}
