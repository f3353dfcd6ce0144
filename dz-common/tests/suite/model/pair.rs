//! Two ends and what is under way between them: what can happen next.

use super::end::{End, EndCode};
use crate::support::packet;
use dz_common::deployed::Release;
use dz_common::packet::{Packet, State};

/// Most packets under way in one direction while packets get lost; a further one is lost, too.
const MOST_UNDER_WAY: usize = 2;
/// Room for them in a [`Code`]; once nothing gets lost any more there are never as many.
const ROOM: usize = 8;

/// A packet under way: state, both discriminators, and whether an interval has passed since it was
/// sent.
type UnderWay = [u8; 4];

/// A state of the model in bytes: both ends, and the packets on their way to each.
pub(crate) type Code = [u8; 28 + 2 * 2 * ROOM];

/// The rules of both ends: ours, or those of a deployed release.
pub(crate) type Rules = [Option<Release>; 2];

/// How long packets are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Packets take up to two intervals, and no more than two are under way.
    Rough,
    /// No interval passes while a packet is under way.
    Fair,
}

/// A state of the model. Discriminators are small numbers: 0x10 and up at one end, 0x20 and up at
/// the other, the next one when it is forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    rules: Rules,
    ends: [End; 2],
    /// Packets on their way to each end, in no order.
    under_way: [Vec<UnderWay>; 2],
}

impl Pair {
    /// Two ends that have just started, and know nothing of each other.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            ends: [End::new(rules[0], 0x10), End::new(rules[1], 0x20)],
            under_way: [Vec::new(), Vec::new()],
        }
    }

    /// The pair in bytes: the same for pairs that behave alike.
    pub(crate) fn code(&self) -> Code {
        let known = self.known();
        let code = self.code_with([0, 1], |discr| match discr {
            0 => 0,
            _ => discr & 0xf0 | rank(known, discr),
        });
        if self.rules[0] != self.rules[1] {
            return code;
        }
        // Two of a kind: which is which does not matter.
        let mirrored = self.code_with([1, 0], |discr| match discr {
            0 => 0,
            _ => (discr & 0xf0 ^ 0x30) | rank(known, discr),
        });
        code.min(mirrored)
    }

    /// The discriminators of each end that anybody still knows, a bit each.
    fn known(&self) -> [u16; 2] {
        let mut known = [0; 2];
        let mut note = |discr: u8| {
            if discr != 0 {
                known[usize::from(discr >> 4) - 1] |= 1 << (discr & 0xf);
            }
        };
        for session in self.ends.each_ref().map(End::session) {
            note(session.local_discr as u8);
            note(session.peer_discr as u8);
        }
        for [_, my_discr, your_discr, _] in self.under_way.iter().flatten() {
            note(*my_discr);
            note(*your_discr);
        }
        known
    }

    fn code_with(&self, order: [usize; 2], name: impl Fn(u8) -> u8) -> Code {
        let mut code = [0; 28 + 2 * 2 * ROOM];
        for (i, which) in order.into_iter().enumerate() {
            let mut end = self.ends[which].code();
            (end[1], end[2]) = (name(end[1]), name(end[2]));
            code[i * 14..(i + 1) * 14].copy_from_slice(&end);
            let mut packed = [[0; 2]; ROOM];
            for (to, [state, my_discr, your_discr, old]) in
                packed.iter_mut().zip(&self.under_way[which])
            {
                *to = packed_packet([*state, name(*my_discr), name(*your_discr), *old]);
            }
            packed.sort_unstable();
            let from = 28 + i * 2 * ROOM;
            code[from..from + 2 * ROOM].copy_from_slice(packed.as_flattened());
        }
        code
    }

    /// The pair of which this is the code.
    pub(crate) fn of(rules: Rules, code: &Code) -> Self {
        let (ends, under_way) = code.split_at(28);
        let end = |i: usize| {
            let code: EndCode = std::array::from_fn(|at| ends[i * 14 + at]);
            End::of(rules[i], &code)
        };
        let packets = |i: usize| {
            let room = under_way[i * 2 * ROOM..].as_chunks().0[..ROOM].iter();
            let taken = room.filter(|packed| **packed != [0; 2]);
            taken.map(|packed| unpacked_packet(*packed)).collect()
        };
        Self {
            rules,
            ends: [end(0), end(1)],
            under_way: [packets(0), packets(1)],
        }
    }

    /// The same with all packets just sent, for where it does not matter.
    pub(crate) fn in_fair_weather(mut self) -> Self {
        self.under_way.iter_mut().flatten().for_each(|p| p[3] = 0);
        self
    }

    /// Both are Up and believe each other's packets.
    pub(crate) fn is_up(&self) -> bool {
        let [a, b] = &self.ends;
        let knows = |x: &End, y: &End| x.packet().your_discr == y.session().local_discr;
        let up = |end: &End| end.session().state == State::Up;
        up(a) && up(b) && knows(a, b) && knows(b, a)
    }

    /// Everything that can happen next without loss or restart, and whether it is that an interval
    /// passes.
    pub(crate) fn steps(&self, weather: Weather) -> (Vec<Self>, bool) {
        let mut steps = Vec::new();
        for who in 0..2 {
            let mut expired = self.clone();
            if expired.ends[who].expire() {
                steps.push(expired);
            }
            let mut sent = self.clone();
            if let Some(packet) = sent.ends[who].look() {
                sent.send(who, &packet, weather);
                steps.push(sent);
            }
        }
        let idle = steps.is_empty();
        for to in 0..2 {
            for which in 0..self.under_way[to].len() {
                steps.push(self.deliver(to, which, weather));
            }
        }
        if idle && self.may_age(weather) {
            let ages = steps.is_empty();
            steps.push(self.age());
            return (steps, ages);
        }
        (steps, false)
    }

    /// Every loss of a packet.
    pub(crate) fn losses(&self) -> Vec<Self> {
        let lose = |(to, which): (usize, usize)| {
            let mut next = self.clone();
            next.under_way[to].swap_remove(which);
            next
        };
        let each =
            (0..2).flat_map(|to| (0..self.under_way[to].len()).map(move |which| (to, which)));
        each.map(lose).collect()
    }

    /// Every restart of an end, with its discriminator and without.
    pub(crate) fn restarts(&self) -> Vec<Self> {
        let restart = |(who, forgets): (usize, u32)| {
            let mut next = self.clone();
            let discr = self.ends[who].session().local_discr + forgets;
            next.ends[who] = End::new(self.rules[who], discr);
            next
        };
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(restart).to_vec()
    }

    fn deliver(&self, to: usize, which: usize, weather: Weather) -> Self {
        let mut next = self.clone();
        let [state, my_discr, your_discr, _] = next.under_way[to].swap_remove(which);
        let packet = Packet {
            my_discr: u32::from(my_discr),
            desired_min_tx_us: super::end::TICK_US,
            required_min_rx_us: super::end::TICK_US,
            ..packet(State::ALL[usize::from(state)], u32::from(your_discr))
        };
        if let Some(answer) = next.ends[to].receive(&packet) {
            next.send(to, &answer, weather);
        }
        next
    }

    /// Whether an interval may pass: no packet is under way for longer than two.
    fn may_age(&self, weather: Weather) -> bool {
        let mut under_way = self.under_way.iter().flatten();
        under_way.all(|packet| packet[3] == 0 && weather == Weather::Rough)
    }

    fn age(&self) -> Self {
        let mut next = self.clone();
        next.ends.iter_mut().for_each(End::age);
        next.under_way.iter_mut().flatten().for_each(|p| p[3] = 1);
        next
    }

    fn send(&mut self, from: usize, packet: &Packet, weather: Weather) {
        let under_way = &mut self.under_way[1 - from];
        if weather == Weather::Fair {
            assert!(under_way.len() < ROOM, "a storm");
        } else if under_way.len() == MOST_UNDER_WAY {
            return;
        }
        let discrs = [packet.my_discr as u8, packet.your_discr as u8];
        under_way.push([packet.state as u8, discrs[0], discrs[1], 0]);
    }
}

/// How many earlier discriminators of the same end are still known.
fn rank(known: [u16; 2], discr: u8) -> u8 {
    let earlier = known[usize::from(discr >> 4) - 1] & ((1 << (discr & 0xf)) - 1);
    earlier.count_ones() as u8
}

/// A packet in two bytes, not both zero: its discriminator is not.
fn packed_packet([state, my_discr, your_discr, old]: UnderWay) -> [u8; 2] {
    let nibble = |discr: u8| (discr >> 4) << 2 | discr & 3;
    [state | old << 2, nibble(my_discr) << 4 | nibble(your_discr)]
}

fn unpacked_packet([state, discrs]: [u8; 2]) -> UnderWay {
    let discr = |nibble: u8| (nibble >> 2) << 4 | nibble & 3;
    [
        state & 3,
        discr(discrs >> 4),
        discr(discrs & 15),
        state >> 2,
    ]
}
