//! Decides when to transmit: answers from the receive path, and packets by our own clock.
//!
//! Three rules bound the rate whatever the peer sends:
//! - a transmission waits until the last one, of any kind, is at least ¾ of the transmit interval
//!   ago;
//! - one that tells a new state need not wait while any of the [`BURST`] allowances is left. Each
//!   transmission that tells nothing new restores one, so a peer that never stops changing our
//!   state uses them up once;
//! - within any one interval there are at most [`BURST`] transmissions, answers and clock together.
//!
//! So each side sends about one packet per interval (at most 4/3), whoever's clock ticks first, and
//! two of our own agents face to face cannot start a storm.

use crate::packet::State;
pub use crate::session::BURST;
use crate::session::{NS_PER_US, Session};

/// The decision about an opportunity to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Transmit now; the session has noted it.
    Send,
    /// Less than ¾ of the transmit interval since the last transmission.
    Paced,
    /// State changed, but the burst allowance is used up, or the interval's transmissions are.
    BurstSpent,
}

/// The decision about a session that our clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Transmit now; the session has noted it. Ask again at `next_due_ns`.
    Send,
    /// Not yet. Ask again at `next_due_ns`.
    NotDue,
}

impl Session {
    /// Decides whether a received packet is answered, and notes the transmission if it is.
    /// `changed`: the packet changed our state.
    #[inline(always)]
    pub fn answer(&mut self, changed: bool, now_ns: u64) -> Answer {
        if now_ns < self.earliest_ns(changed) {
            return if changed {
                Answer::BurstSpent
            } else {
                Answer::Paced
            };
        }
        let interval_us = self.noted_interval_us(now_ns);
        self.next_tx_ns = fallback_ns(now_ns, interval_us, self.timers.detect_mult);
        Answer::Send
    }

    /// Decides whether our clock transmits, and notes the transmission if it does.
    ///
    /// Returns the decision and the instant at which to ask again: never later than one transmit
    /// interval from now, so that a long back-off computed earlier cannot silence a session that
    /// receipts have meanwhile brought Up.
    #[inline(always)]
    pub fn tick(&mut self, now_ns: u64, random: u32) -> (Tick, u64) {
        let decision = if now_ns >= self.ready_ns() {
            self.transmitted(now_ns, random);
            Tick::Send
        } else {
            Tick::NotDue
        };
        (decision, self.next_due_ns(now_ns))
    }

    /// Notes a transmission by our clock and sets the next one, see [`scheduled_ns`]. Returns the
    /// interval before jitter, µs. `random` is uniform over `u32`.
    #[inline(always)]
    pub fn transmitted(&mut self, now_ns: u64, random: u32) -> u32 {
        let interval_us = self.noted_interval_us(now_ns);
        self.next_tx_ns = scheduled_ns(now_ns, interval_us, self.timers.detect_mult, random);
        interval_us
    }

    /// Notes a transmission. Returns the interval to the next one, before jitter and while Down with
    /// back-off, which doubles until it reaches its cap, µs.
    #[inline(always)]
    fn noted_interval_us(&mut self, now_ns: u64) -> u32 {
        self.note(now_ns);
        let mut interval_us = self.tx_interval_us();
        if self.state == State::Down {
            let cap_us = self.timers.backoff_cap_us;
            let backed_off = interval_us as u64 * self.backoff as u64;
            let capped = cap_us != 0 && backed_off >= cap_us as u64;
            // Without a cap the product still has to fit the wire's 32 bits; a cap below the
            // interval must not make us faster than the peer wishes.
            let limit = if cap_us == 0 {
                u32::MAX
            } else if cap_us < interval_us {
                interval_us
            } else {
                cap_us
            };
            interval_us = if backed_off > limit as u64 {
                limit
            } else {
                backed_off as u32
            };
            if !capped && self.backoff < 1 << 31 {
                self.backoff <<= 1;
            }
        } else {
            self.backoff = 1;
        }
        interval_us
    }

    /// Returns when our clock should look at the session again.
    #[inline(always)]
    pub fn next_due_ns(&self, now_ns: u64) -> u64 {
        let latest = now_ns + self.tx_interval_ns();
        let ready = self.ready_ns();
        if ready < latest { ready } else { latest }
    }

    /// Returns when our clock may transmit: a state that the peer has not been told as soon as pacing
    /// allows, anything else when its time has come. AdminDown is announced, not repeated.
    #[inline(always)]
    fn ready_ns(&self) -> u64 {
        let news = self.announce != 0;
        let paced = self.earliest_ns(news);
        if news {
            return paced;
        }
        let mut ready = self.next_tx_ns;
        match self.state {
            State::AdminDown => return u64::MAX,
            State::Down => {}
            // The interval may have become shorter since the time was set.
            _ => {
                let overdue = self.last_tx_ns + self.tx_interval_ns() / 10 * 11;
                if overdue < ready {
                    ready = overdue;
                }
            }
        }
        if ready < paced { paced } else { ready }
    }

    /// Returns when pacing allows the next transmission. `news`: it tells a state not told yet.
    #[inline(always)]
    fn earliest_ns(&self, news: bool) -> u64 {
        if self.last_tx_ns == 0 {
            return 0;
        }
        let recent_us = self.tx_gaps_us[0] as u64 + self.tx_gaps_us[1] as u64;
        let recent_ns = recent_us * NS_PER_US;
        let uncrowded = if recent_ns < self.last_tx_ns {
            self.last_tx_ns - recent_ns + self.tx_interval_ns()
        } else {
            0 // before the clock began: there was none
        };
        let paced = self.last_tx_ns + self.pace_ns();
        if news && self.burst_left != 0 || uncrowded > paced {
            uncrowded
        } else {
            paced
        }
    }

    /// Accounts for a transmission.
    #[inline(always)]
    fn note(&mut self, now_ns: u64) {
        // The clock begins with the machine, which is no transmission: it may have been a moment ago.
        let gap_ns = if self.last_tx_ns == 0 {
            u64::MAX
        } else {
            now_ns.saturating_sub(self.last_tx_ns)
        };
        if gap_ns >= BURST as u64 * self.tx_interval_ns() {
            self.burst_left = BURST;
        } else if self.announce == 0 {
            if self.burst_left < BURST {
                self.burst_left += 1;
            }
        } else if gap_ns < self.pace_ns() {
            self.burst_left = self.burst_left.saturating_sub(1);
        }
        let gap_us = gap_ns / NS_PER_US;
        let gap_us = if gap_us > u32::MAX as u64 {
            u32::MAX
        } else {
            gap_us as u32
        };
        self.tx_gaps_us = [gap_us, self.tx_gaps_us[0]];
        self.last_tx_ns = now_ns;
        self.announce = 0;
        if self.state == State::Down {
            self.echoes_left = self.echoes_left.saturating_sub(1);
        }
    }

    #[inline(always)]
    fn tx_interval_ns(&self) -> u64 {
        self.tx_interval_us() as u64 * NS_PER_US
    }

    /// Whether ¾ of the transmit interval have passed since an instant, given by its
    /// [`due_now_stamp`]. Stamps come round every 73 minutes: one that old may seem recent for ¾ of an
    /// interval once more.
    #[inline(always)]
    pub(crate) fn is_paced(&self, since: u32, now_ns: u64) -> bool {
        let passed = due_now_stamp(now_ns).wrapping_sub(since);
        ((passed as u64) << STAMP_SHIFT) < self.pace_ns()
    }

    /// Returns ¾ of the transmit interval, ns.
    #[inline(always)]
    pub(crate) fn pace_ns(&self) -> u64 {
        self.tx_interval_us() as u64 * (NS_PER_US * 3 / 4)
    }
}

/// Bits of an instant in ns that a stamp leaves out: it counts in 1,024 ns.
const STAMP_SHIFT: u32 = 10;
/// How far ahead a stamp is believed to be, ns. Stamps come round every 73 minutes: one that nothing has
/// renewed for so long may seem to be ahead again, and then delays our clock by this much at most.
const STAMP_REACH_NS: u64 = 5_000_000_000;

/// Shortens an instant, in ns, to the stamp that [`crate::map::Deadline::next_due`] keeps: rounded up,
/// and without the upper bits.
#[inline(always)]
pub const fn due_stamp(at_ns: u64) -> u32 {
    ((at_ns + (1 << STAMP_SHIFT) - 1) >> STAMP_SHIFT) as u32
}

/// Returns the stamp of the present.
#[inline(always)]
pub const fn due_now_stamp(now_ns: u64) -> u32 {
    (now_ns >> STAMP_SHIFT) as u32
}

/// Returns a stamp so long ago that no pacing waits for it.
pub const fn long_ago_stamp(now_ns: u64) -> u32 {
    due_now_stamp(now_ns).wrapping_sub(1 << 31)
}

/// Returns the instant of a stamp, in ns, if it is ahead.
pub const fn ahead_ns(stamp: u32, now_ns: u64) -> Option<u64> {
    let now = now_ns >> STAMP_SHIFT;
    let ahead = stamp.wrapping_sub(now as u32) as u64;
    if ahead == 0 || ahead > STAMP_REACH_NS >> STAMP_SHIFT {
        return None;
    }
    Some((now + ahead) << STAMP_SHIFT)
}

/// The coarsest grid of transmissions, ns: about 34 ms.
const COARSEST_NS: u64 = 1 << 25;

/// Returns when to transmit next, ns: an interval with [`jittered_ns`] from now, moved within its bounds
/// to a grid of the clock that the transmissions of other sessions are on, too, because a wake-up of
/// the machine costs more than a packet.
/// The grid is at most 1/16 of the interval.
#[inline(always)]
pub const fn scheduled_ns(now_ns: u64, interval_us: u32, detect_mult: u8, random: u32) -> u64 {
    let at_ns = now_ns + jittered_ns(interval_us, detect_mult, random);
    let (earliest_ns, _) = jitter_ns(interval_us, detect_mult);
    let mask = grid_mask(interval_us);
    let before_ns = at_ns & !mask;
    // The bounds are further apart than two points of the grid.
    if before_ns < now_ns + earliest_ns {
        before_ns + mask + 1
    } else {
        before_ns
    }
}

/// Returns when to transmit next after an answer, ns. Our clock is only the fallback then: unless the
/// peer's stops, its next packet comes first and is answered, and our clock only looks. So its grid is
/// as coarse as the bounds of jitter are wide, which leaves one point between them; which one depends
/// on when the packet came.
#[inline(always)]
pub const fn fallback_ns(now_ns: u64, interval_us: u32, detect_mult: u8) -> u64 {
    let (earliest_ns, span_ns) = jitter_ns(interval_us, detect_mult);
    let latest_ns = now_ns + earliest_ns + span_ns;
    match latest_ns.checked_rem(span_ns) {
        Some(beyond_ns) => latest_ns - beyond_ns,
        None => latest_ns,
    }
}

/// Returns the largest power of two that is at most 1/16 of the interval and [`COARSEST_NS`], less 1.
#[inline(always)]
const fn grid_mask(interval_us: u32) -> u64 {
    let sixteenth_ns = interval_us as u64 * NS_PER_US / 16;
    let mut ones = if sixteenth_ns < COARSEST_NS {
        sixteenth_ns
    } else {
        COARSEST_NS
    };
    // Every bit below the highest: BPF has no instruction that counts leading zeros.
    ones |= ones >> 1;
    ones |= ones >> 2;
    ones |= ones >> 4;
    ones |= ones >> 8;
    ones |= ones >> 16;
    ones >> 1
}

/// Returns an interval with jitter, in ns, see `jitter_ns`.
#[inline(always)]
pub const fn jittered_ns(interval_us: u32, detect_mult: u8, random: u32) -> u64 {
    let (lowest, span) = jitter_ns(interval_us, detect_mult);
    // In 1/65536 of the span: the product stays below 64 bits for any 32-bit interval.
    lowest
        + (span >> 16) * (random >> 16) as u64
        + (((span & 0xffff) * (random >> 16) as u64) >> 16)
}

/// Returns the shortest interval with jitter, and by how much longer it can be, ns: ±10 %, or with
/// multiplier 1 −25 … −10 % so that a single late packet cannot pass the deadline (*ours*, RFC 5880
/// §6.8.7).
#[inline(always)]
const fn jitter_ns(interval_us: u32, detect_mult: u8) -> (u64, u64) {
    let base_ns = interval_us as u64 * NS_PER_US;
    if detect_mult == 1 {
        (base_ns - base_ns / 4, base_ns * 3 / 20)
    } else {
        (base_ns - base_ns / 10, base_ns / 5)
    }
}
