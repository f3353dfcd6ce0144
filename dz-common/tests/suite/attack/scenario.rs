//! What happens to two ends while somebody attacks.

use super::world::{Happening, Peer, Setting};
use crate::support::{MS, Rng};
use dz_common::session::{Mode, Timers};

/// What happens, once both ends have been Up for a while unless it is about their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// Both start under attack.
    ColdStart,
    /// Nothing happens.
    Steady,
    /// Our end starts anew and knows its discriminator.
    OursRestarts,
    /// Our end starts anew with another discriminator.
    OursForgets,
    /// The peer starts anew and knows its discriminator.
    PeerRestarts,
    /// The peer starts anew with another discriminator.
    PeerForgets,
    OursFreezes,
    PeerFreezes,
    /// Nothing arrives at either end for a while.
    Cut,
    /// Nothing arrives at our end for a while.
    CutToUs,
    /// Nothing arrives at the peer for a while.
    CutFromUs,
    /// The peer stops for good.
    PeerDies,
    /// There has never been a peer.
    NoPeer,
    /// Our end says AdminDown and stays there.
    OursLeaves,
    /// The peer says AdminDown and stays there.
    PeerLeaves,
}

impl Story {
    pub(crate) const ALL: [Self; 15] = [
        Self::ColdStart,
        Self::Steady,
        Self::OursRestarts,
        Self::OursForgets,
        Self::PeerRestarts,
        Self::PeerForgets,
        Self::OursFreezes,
        Self::PeerFreezes,
        Self::Cut,
        Self::CutToUs,
        Self::CutFromUs,
        Self::PeerDies,
        Self::NoPeer,
        Self::OursLeaves,
        Self::PeerLeaves,
    ];

    /// What happens at `at_ns` and, if it passes, is over at `until_ns`.
    fn script(self, at_ns: u64, until_ns: u64) -> Vec<(u64, Happening)> {
        use Happening::*;
        let passing = |begin: &[Happening], end: &[Happening]| {
            let begin = begin.iter().map(|what| (at_ns, *what));
            let end = end.iter().map(|what| (until_ns, *what));
            begin.chain(end).collect()
        };
        match self {
            Self::ColdStart | Self::NoPeer | Self::Steady => Vec::new(),
            Self::OursRestarts => passing(&[Stop(0), Start(0, true)], &[]),
            Self::OursForgets => passing(&[Stop(0), Start(0, false)], &[]),
            Self::PeerRestarts => passing(&[Stop(1), Start(1, true)], &[]),
            Self::PeerForgets => passing(&[Stop(1), Start(1, false)], &[]),
            Self::OursFreezes => passing(&[Freeze(0)], &[Thaw(0)]),
            Self::PeerFreezes => passing(&[Freeze(1)], &[Thaw(1)]),
            Self::Cut => passing(&[Cut(0), Cut(1)], &[Heal(0), Heal(1)]),
            Self::CutToUs => passing(&[Cut(1)], &[Heal(1)]),
            Self::CutFromUs => passing(&[Cut(0)], &[Heal(0)]),
            Self::PeerDies => passing(&[Stop(1)], &[]),
            Self::OursLeaves => passing(&[Farewell(0)], &[]),
            Self::PeerLeaves => passing(&[Farewell(1)], &[]),
        }
    }
}

const SECOND_NS: u64 = 1_000 * MS;
/// When the ends have long been Up, whoever they are.
const SETTLED_NS: u64 = 40 * SECOND_NS;
/// When the attack ends: long after what happens is over.
pub(crate) const ATTACK_END_NS: u64 = SETTLED_NS + 60 * SECOND_NS;
/// Long enough for three intervals of a deployed peer that has backed off.
const END_NS: u64 = ATTACK_END_NS + 220 * SECOND_NS;

/// A setting of this story, and when what happens in it begins.
pub(crate) fn setting(story: Story, peer: Peer, seed: u64) -> (Setting, u64) {
    let mut rng = Rng::new(seed);
    let timers = [0, 1].map(|who| any_timers(peer, who, &mut rng));
    // The first second is left out: 0 means never.
    let starts = [SECOND_NS, SECOND_NS + rng.below(5 * SECOND_NS)];
    let attack_ns = match story {
        Story::ColdStart | Story::NoPeer => SECOND_NS / 2,
        _ => SETTLED_NS + rng.below(2 * SECOND_NS),
    };
    let at_ns = match story {
        Story::ColdStart | Story::NoPeer => 0,
        _ => attack_ns + rng.below(5 * SECOND_NS),
    };
    let until_ns = at_ns + 10 * SECOND_NS + rng.below(10 * SECOND_NS);
    let mut script = vec![
        (starts[0], Happening::Start(0, false)),
        (attack_ns, Happening::AttackBegins),
        (ATTACK_END_NS, Happening::AttackEnds),
    ];
    if story != Story::NoPeer {
        script.push((starts[1], Happening::Start(1, false)));
    }
    script.extend(story.script(at_ns, until_ns));
    script.sort_by_key(|(at_ns, _)| *at_ns);
    let setting = Setting {
        seed,
        peer,
        timers,
        delay_ns: 1 + rng.below(50 * MS),
        storms: rng.chance(30),
        script,
        end_ns: END_NS,
    };
    (setting, at_ns)
}

/// The deployed defaults, of today or of earlier releases, either mode.
fn any_timers(peer: Peer, who: usize, rng: &mut Rng) -> Timers {
    let interval_us = rng.pick(&[1_000_000, 1_000_000, 300_000]);
    let backoff_cap_us = match peer {
        Peer::Deployed(_) if who == 1 => 60_000_000,
        _ => Timers::DEFAULT.backoff_cap_us,
    };
    Timers {
        detect_mult: rng.pick(&[3, 3, 5]),
        desired_min_tx_us: interval_us,
        required_min_rx_us: interval_us,
        backoff_cap_us,
        mode: rng.pick(&[Mode::Active, Mode::Passive]),
        ..Timers::DEFAULT
    }
}
