//! Who sees nothing of a session, or what is sent to third parties, and sends what he likes.

use crate::support::Rng;
use dz_common::packet::{Packet, State, Version};

/// What a field of his packets is.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Zero,
    Same(u32),
    Any,
    ZeroOrAny,
}

impl Choice {
    fn draw(self, rng: &mut Rng) -> u32 {
        match self {
            Self::Zero => 0,
            Self::Same(value) => value,
            Self::Any => rng.u32(),
            Self::ZeroOrAny if rng.chance(50) => 0,
            Self::ZeroOrAny => rng.u32(),
        }
    }
}

/// What one attacker sends: each has habits, so that a scenario meets one kind of packet at a time
/// and all kinds together.
pub(crate) struct Attacker {
    rng: Rng,
    states: Vec<State>,
    my_discr: Choice,
    your_discr: Choice,
    interval: Choice,
    passive: Option<bool>,
    period_ns: u64,
    /// To which ends he sends.
    pub(crate) aims_at: [bool; 2],
    /// When he sends next.
    pub(crate) next_ns: u64,
}

impl Attacker {
    /// He may know the discriminators of other sessions.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let third_party = rng.u32() | 1;
        let states = match rng.below(6) {
            0..2 => State::ALL.to_vec(),
            2..4 => vec![State::Down],
            _ => vec![rng.pick(&State::ALL)],
        };
        let discr = [Choice::Any, Choice::Same(third_party), Choice::Same(1)];
        let echo = [
            Choice::Zero,
            Choice::Any,
            Choice::ZeroOrAny,
            Choice::Same(rng.u32() | 1),
        ];
        let interval = [
            Choice::Any,
            Choice::Zero,
            Choice::Same(1_000_000),
            Choice::Same(u32::MAX),
        ];
        Self {
            my_discr: rng.pick(&discr),
            your_discr: rng.pick(&echo),
            interval: rng.pick(&interval),
            passive: rng.pick(&[None, Some(false), Some(true)]),
            // 1, 10, 100 or 1,000 a second.
            period_ns: 1_000_000_000 / rng.pick(&[1, 10, 100, 1_000, 1_000]),
            aims_at: rng.pick(&[[true; 2], [true; 2], [true, false]]),
            states,
            next_ns: u64::MAX,
            rng,
        }
    }

    /// A thousand packets a second of every kind.
    pub(crate) fn of_every_kind(seed: u64) -> Self {
        Self {
            states: State::ALL.to_vec(),
            my_discr: Choice::Any,
            your_discr: Choice::ZeroOrAny,
            interval: Choice::Any,
            passive: None,
            period_ns: 1_000_000,
            aims_at: [true; 2],
            next_ns: u64::MAX,
            rng: Rng::new(seed),
        }
    }

    pub(crate) fn start(&mut self, now_ns: u64) {
        self.next_ns = now_ns + self.rng.below(self.period_ns);
    }

    pub(crate) fn stop(&mut self) {
        self.next_ns = u64::MAX;
    }

    /// His next packet; the one after it comes a period later, give or take half.
    pub(crate) fn send(&mut self) -> Packet {
        let rng = &mut self.rng;
        self.next_ns += self.period_ns / 2 + rng.below(self.period_ns);
        Packet {
            state: rng.pick(&self.states),
            detect_mult: rng.byte().max(1),
            my_discr: self.my_discr.draw(rng).max(1),
            your_discr: self.your_discr.draw(rng),
            desired_min_tx_us: self.interval.draw(rng),
            required_min_rx_us: self.interval.draw(rng),
            passive: self.passive.unwrap_or_else(|| rng.chance(50)),
            version: Version::new([rng.byte(), rng.byte(), 0, 0]),
            reserved_set: false,
        }
    }
}
