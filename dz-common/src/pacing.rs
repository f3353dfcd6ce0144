//! When to transmit: answers from the receive path, and our own clock.
//!
//! Two rules bound the rate whatever the peer sends:
//! - an answer to a packet that changed our state uses up one of [`BURST`] allowances, refilled one
//!   per transmit interval;
//! - any other answer goes out only if the last transmission of any kind is at least ¾ of the
//!   transmit interval ago.
//!
//! So each side sends about one packet per interval (at most 4/3), whoever's clock ticks first, and
//! two of our own agents face to face cannot start a storm.

use crate::packet::State;
use crate::session::{NS_PER_US, Session};

/// State-change announcements that may go out at once before pacing sets in.
pub const BURST: u8 = 3;

/// What to do with an opportunity to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Transmit now; the session has noted it.
    Send,
    /// Less than ¾ of the transmit interval since the last transmission.
    Paced,
    /// State changed, but the burst allowance is used up.
    BurstSpent,
}

/// What to do when our clock says that a session may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Transmit now; the session has noted it. Ask again at `next_due_ns`.
    Send,
    /// Not yet. Ask again at `next_due_ns`.
    NotDue,
}

impl Session {
    /// Decides whether a received packet is answered, and notes the transmission if it is.
    /// `changed`: the packet changed our state. `random` is uniform over `u32`.
    #[inline(always)]
    pub fn answer(&mut self, changed: bool, now_ns: u64, random: u32) -> Answer {
        if changed {
            if !self.take_burst(now_ns) {
                return Answer::BurstSpent;
            }
        } else if !self.paced(now_ns) {
            return Answer::Paced;
        }
        self.transmitted(now_ns, random);
        Answer::Send
    }

    /// Decides whether our clock transmits, and notes the transmission if it does.
    ///
    /// Returns the decision and the instant at which to ask again: never later than one transmit
    /// interval from now, so that a long back-off computed earlier cannot silence a session that
    /// receipts have meanwhile brought Up.
    #[inline(always)]
    pub fn tick(&mut self, now_ns: u64, random: u32) -> (Tick, u64) {
        let decision = if self.due(now_ns) {
            self.transmitted(now_ns, random);
            Tick::Send
        } else {
            Tick::NotDue
        };
        (decision, self.next_due_ns(now_ns))
    }

    /// Notes a transmission and sets the next one: interval with jitter, and while Down with
    /// back-off, which doubles until it reaches its cap. Returns the interval before jitter, µs.
    #[inline(always)]
    pub fn transmitted(&mut self, now_ns: u64, random: u32) -> u32 {
        let mut interval_us = self.tx_interval_us();
        if self.state == State::Down {
            let cap_us = self.timers.backoff_cap_us;
            let backed_off = interval_us as u64 * self.backoff as u64;
            let capped = cap_us != 0 && backed_off >= cap_us as u64;
            // Without a cap the product still has to fit the wire's 32 bits.
            let limit = if cap_us != 0 { cap_us } else { u32::MAX };
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
        self.last_tx_ns = now_ns;
        self.next_tx_ns = now_ns + jittered_ns(interval_us, self.timers.detect_mult, random);
        self.announce = 0;
        interval_us
    }

    /// When our clock should look at the session again.
    #[inline(always)]
    pub fn next_due_ns(&self, now_ns: u64) -> u64 {
        let latest = now_ns + self.tx_interval_us() as u64 * NS_PER_US;
        let next = if self.announce != 0 {
            self.pace_ends_ns()
        } else {
            self.next_tx_ns
        };
        if next < latest { next } else { latest }
    }

    /// A state that the peer has not been told goes out at once if the burst allowance or the
    /// pacing allows; anything else when its time has come. AdminDown is announced, not repeated.
    #[inline(always)]
    fn due(&mut self, now_ns: u64) -> bool {
        if self.announce != 0 && (self.paced(now_ns) || self.take_burst(now_ns)) {
            return true;
        }
        self.state != State::AdminDown && now_ns >= self.next_tx_ns
    }

    #[inline(always)]
    fn paced(&self, now_ns: u64) -> bool {
        now_ns >= self.pace_ends_ns()
    }

    #[inline(always)]
    fn pace_ends_ns(&self) -> u64 {
        if self.last_tx_ns == 0 {
            return 0;
        }
        self.last_tx_ns + self.tx_interval_us() as u64 * (NS_PER_US * 3 / 4)
    }

    #[inline(always)]
    fn take_burst(&mut self, now_ns: u64) -> bool {
        let interval_ns = self.tx_interval_us() as u64 * NS_PER_US;
        if self.burst_left < BURST && now_ns.saturating_sub(self.burst_refill_ns) >= interval_ns {
            // A full interval per allowance; older credit is not kept beyond a full burst.
            let elapsed = now_ns - self.burst_refill_ns;
            if elapsed >= interval_ns * BURST as u64 {
                self.burst_left = BURST;
                self.burst_refill_ns = now_ns;
            } else {
                let whole = if elapsed >= 2 * interval_ns { 2 } else { 1 };
                let left = self.burst_left + whole;
                self.burst_left = if left > BURST { BURST } else { left };
                self.burst_refill_ns += whole as u64 * interval_ns;
            }
        }
        if self.burst_left == 0 {
            return false;
        }
        if self.burst_left == BURST {
            self.burst_refill_ns = now_ns; // the refill clock starts with the first use
        }
        self.burst_left -= 1;
        true
    }
}

/// An interval with jitter, in ns: ±10 %, or with multiplier 1 −25 … −10 % so that a single late
/// packet cannot pass the deadline (*ours*, RFC 5880 §6.8.7).
#[inline(always)]
pub const fn jittered_ns(interval_us: u32, detect_mult: u8, random: u32) -> u64 {
    let base_ns = interval_us as u64 * NS_PER_US;
    let (lowest, span) = if detect_mult == 1 {
        (base_ns - base_ns / 4, base_ns * 3 / 20)
    } else {
        (base_ns - base_ns / 10, base_ns / 5)
    };
    // In 1/65536 of the span: the product stays below 64 bits for any 32-bit interval.
    lowest
        + (span >> 16) * (random >> 16) as u64
        + (((span & 0xffff) * (random >> 16) as u64) >> 16)
}
