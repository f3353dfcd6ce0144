//! Peers that have left: followed peers that have long been Down without a packet.
//!
//! The deployed client with an allocated address removes no route before its tunnel goes. Such a route
//! would keep its peer for ever, and our clock would speak to the peer at every back-off cap. It speaks to
//! peers that have left once a minute instead. A packet that changes a session's state is an event, on
//! which our clock asks immediately.

use dz_common::map::{Origin, SessionEntry, SessionKey};
use dz_common::packet::State;

use crate::hash::HashSet;

/// For how long a followed peer has to be Down and silent to have left, ns.
const AFTER_NS: u64 = 600 * 1_000_000_000;
/// The mean pause between two packets to a peer that has left, ns.
const PAUSE_NS: u64 = 60 * 1_000_000_000;
/// The pause is longer or shorter by up to one part in `JITTER`: peers that left together are not to be
/// spoken to together.
const JITTER: u64 = 10;

/// Returns for how long a followed peer has to be Down and silent to have left, ns. Tests make it shorter.
pub(crate) fn after_ns() -> u64 {
    #[cfg(feature = "faults")]
    if let Some(after_ms) = crate::faults::left_after_ms() {
        return after_ms.saturating_mul(1_000_000);
    }
    AFTER_NS
}

/// Says whether a session's peer has left by `now_ns`. `origin` is called only if everything else speaks
/// for it.
pub(crate) fn has_left(
    origin: impl FnOnce() -> Option<Origin>,
    entry: &SessionEntry,
    now_ns: u64,
    after_ns: u64,
) -> bool {
    let silent_since_ns = entry.session.since_ns.max(entry.last_seen_ns);
    entry.session.state == State::Down
        && now_ns.saturating_sub(silent_since_ns) >= after_ns
        && origin() == Some(Origin::Follow)
}

/// The sessions of peers that have left, as of the last full check.
#[derive(Debug, Default)]
pub(crate) struct Left(HashSet<SessionKey>);

impl Left {
    /// Replaces the sessions whose peers have left. Returns those whose peers are back.
    pub(crate) fn replace(&mut self, left: HashSet<SessionKey>) -> Vec<SessionKey> {
        let before = std::mem::replace(&mut self.0, left);
        let back = before.into_iter().filter(|key| !self.0.contains(key));
        back.collect()
    }

    /// Notes that a session's peer is heard again, or that the session is gone.
    pub(crate) fn forget(&mut self, key: &SessionKey) {
        // Spares the hash: most of the time no peer has left.
        if !self.0.is_empty() {
            self.0.remove(key);
        }
    }

    /// Returns when our clock is to ask for a session, given when the transmit program wants it to.
    pub(crate) fn due_ns(&self, key: &SessionKey, next_due_ns: u64, now_ns: u64) -> u64 {
        if self.0.is_empty() || !self.0.contains(key) {
            return next_due_ns;
        }
        let [.., last] = key.peer;
        let jitter_ns = PAUSE_NS / JITTER;
        let pause_ns = PAUSE_NS - jitter_ns + 2 * jitter_ns / 255 * u64::from(last);
        next_due_ns.max(now_ns.saturating_add(pause_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW_NS};

    /// Down since 5 s, and never heard.
    fn down() -> SessionEntry {
        fixture::entry([10, 0, 0, 2])
    }

    #[test]
    fn who_has_left() {
        const FIVE_S: u64 = 5_000_000_000;
        let follow = Some(Origin::Follow);
        let left = |entry: &SessionEntry, after_ns| has_left(|| follow, entry, NOW_NS, after_ns);
        assert!(left(&down(), FIVE_S), "never heard");
        assert!(!left(&down(), FIVE_S + 1), "not yet");
        let mut heard = down();
        heard.last_seen_ns = NOW_NS - 1_000_000_000;
        assert!(!left(&heard, FIVE_S), "Down, but not silent");
        assert!(left(&heard, 1_000_000_000));
        assert!(!left(&fixture::up([10, 0, 0, 2]), 0), "Up");
        for origin in [Some(Origin::Api), Some(Origin::Config), None] {
            assert!(!has_left(|| origin, &down(), NOW_NS, 0), "{origin:?}");
        }
        let mut later = down();
        later.last_seen_ns = NOW_NS + 1;
        assert!(!left(&later, FIVE_S), "heard after the clock was read");
    }

    #[test]
    fn those_that_have_left_are_asked_for_once_a_minute() {
        let (key, other) = (down().key, fixture::entry([10, 0, 0, 3]).key);
        let mut left = Left::default();
        assert_eq!(left.due_ns(&key, NOW_NS + 7, NOW_NS), NOW_NS + 7);
        assert_eq!(left.replace([key].into_iter().collect()), []);
        assert_eq!(left.due_ns(&other, NOW_NS + 7, NOW_NS), NOW_NS + 7);
        let mut pauses = HashSet::default();
        for last in 0..=255 {
            let key = SessionKey {
                peer: [10, 0, 0, last],
                ..key
            };
            left.replace([key].into_iter().collect());
            let pause_ns = left.due_ns(&key, NOW_NS + 7, NOW_NS) - NOW_NS;
            assert!(
                (54_000_000_000..=66_000_000_000).contains(&pause_ns),
                "{pause_ns}"
            );
            pauses.insert(pause_ns);
            // Not before the kernel has anything to send.
            let late_ns = NOW_NS + 2 * PAUSE_NS;
            assert_eq!(left.due_ns(&key, late_ns, NOW_NS), late_ns);
        }
        assert_eq!(pauses.len(), 256);
    }

    #[test]
    fn a_peer_that_is_heard_is_back() {
        let key = down().key;
        let mut left = Left::default();
        left.replace([key].into_iter().collect());
        left.forget(&key);
        assert_eq!(left.due_ns(&key, NOW_NS, NOW_NS), NOW_NS);
        left.replace([key].into_iter().collect());
        assert_eq!(
            left.replace(HashSet::default()),
            [key],
            "heard, without a change of state"
        );
    }
}
