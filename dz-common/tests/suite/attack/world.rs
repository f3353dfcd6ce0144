//! Two ends, a link, a script of what happens to them, and maybe an attacker.
//!
//! Nothing here is drawn from one stream: whether a packet gets lost is the weather of that moment,
//! and jitter depends on how many transmissions the end has made. So the attacker shifts nothing by
//! being there, and two runs of one script differ by what he does to the sessions, or not at all.

use super::attacker::Attacker;
use super::clause::Clause;
use super::end::{DEPLOYED_VERSION, End, Sent};
use crate::support::{CONFIG, MS, Rng};
use dz_common::deployed::Release;
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{DownReason, Mode, NS_PER_US, Timers};

/// Whose rules the second end has. The first end is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Ours,
    Deployed(Release),
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [
        Self::Ours,
        Self::Deployed(Release::Since0_32),
        Self::Deployed(Release::Before0_32),
    ];
}

/// What happens to an end (0 or 1), or to what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// It starts; `true`: with the discriminator that it had.
    Start(usize, bool),
    /// It is gone without a word.
    Stop(usize),
    /// Its clock stands still; a deployed end does not receive either.
    Freeze(usize),
    Thaw(usize),
    /// Nothing that it sends arrives.
    Cut(usize),
    Heal(usize),
    /// It is put in AdminDown.
    Farewell(usize),
    AttackBegins,
    AttackEnds,
}

/// What is the same in both runs of a pair.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) peer: Peer,
    pub(crate) timers: [Timers; 2],
    pub(crate) delay_ns: u64,
    /// Half an interval's packets are lost now and then.
    pub(crate) storms: bool,
    pub(crate) script: Vec<(u64, Happening)>,
    pub(crate) end_ns: u64,
}

/// Mode, version, desired and required interval of a peer.
pub(crate) type Learned = (Mode, Version, u32, u32);

/// What was seen of one end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// State changes: when, to which, why.
    pub(crate) changes: Vec<(u64, State, DownReason)>,
    /// Transmissions.
    pub(crate) sent_ns: Vec<u64>,
    /// Mode, version and intervals of the peer as they were learned.
    pub(crate) learned: Vec<Learned>,
    /// Answers that the session took no note of.
    pub(crate) stateless_ns: Vec<u64>,
    /// Instants at which it was Up although nothing had come from the peer for a detection time.
    pub(crate) believed_nobody_ns: Vec<u64>,
}

impl Setting {
    /// The longer of both ends' intervals, without back-off.
    pub(crate) fn interval_ns(&self) -> u64 {
        let [a, b] = self.timers.map(|timers| timers.desired_min_tx_us);
        u64::from(a.max(b)) * NS_PER_US
    }

    /// The longer of both ends' detection times.
    pub(crate) fn detect_ns(&self) -> u64 {
        let [a, b] = self.timers.map(|timers| timers.detect_mult);
        u64::from(a.max(b)) * self.interval_ns()
    }

    /// Whose version an end announces.
    pub(crate) fn version(&self, who: usize) -> Version {
        match self.peer {
            Peer::Deployed(_) if who == 1 => DEPLOYED_VERSION,
            _ => CONFIG.version,
        }
    }
}

struct Side {
    end: Option<End>,
    frozen: bool,
    cut: bool,
    started: u64,
    waiting: Vec<Packet>,
    /// Last packet of the other side as it is now.
    heard_ns: u64,
    log: Log,
}

pub(crate) struct World<'a> {
    setting: &'a Setting,
    without: Option<Clause>,
    sides: [Side; 2],
    /// Packets under way: when they arrive, where, what.
    under_way: Vec<(u64, usize, Packet)>,
    attacker: Option<Attacker>,
    pub(crate) attacks: u64,
    pub(crate) now_ns: u64,
}

/// One seed's value for one purpose.
fn hash(seed: u64, purpose: u64, n: u64) -> u64 {
    Rng::new(seed ^ purpose << 56 ^ n.wrapping_mul(0xd134_2543_de82_ef95)).next()
}

impl<'a> World<'a> {
    pub(crate) fn new(
        setting: &'a Setting,
        without: Option<Clause>,
        attacker: Option<Attacker>,
    ) -> Self {
        let side = || Side {
            end: None,
            frozen: false,
            cut: false,
            started: 0,
            waiting: Vec::new(),
            heard_ns: 0,
            log: Log::default(),
        };
        Self {
            setting,
            without,
            sides: [side(), side()],
            under_way: Vec::new(),
            attacker,
            attacks: 0,
            now_ns: 0,
        }
    }

    pub(crate) fn run(mut self) -> ([Log; 2], u64) {
        let mut script = self.setting.script.iter().peekable();
        loop {
            let scripted_ns = script
                .peek()
                .map_or(self.setting.end_ns, |(at_ns, _)| *at_ns);
            self.attack_until(scripted_ns);
            let next_ns = self.next_ns().min(scripted_ns);
            self.now_ns = next_ns;
            if next_ns < scripted_ns {
                self.step();
            } else if let Some((_, what)) = script.next() {
                self.happen(*what);
            } else {
                return (self.sides.map(|side| side.log), self.attacks);
            }
        }
    }

    fn next_ns(&self) -> u64 {
        let arrival = self.under_way.iter().map(|(at_ns, ..)| *at_ns).min();
        self.sides
            .iter()
            .map(Side::next_ns)
            .fold(arrival.unwrap_or(u64::MAX), u64::min)
    }

    /// Does what is due now, one thing.
    fn step(&mut self) {
        let now_ns = self.now_ns;
        for who in 0..2 {
            let side = &mut self.sides[who];
            let Some(end) = side.end.as_mut() else {
                continue;
            };
            if (end.is_ours() || !side.frozen) && end.deadline_ns() <= now_ns {
                end.expire(now_ns);
                return self.note(who);
            }
            if end.look_at_ns() <= now_ns && !side.frozen {
                let n = side.log.sent_ns.len() as u64;
                let random = hash(self.setting.seed, 1 + who as u64, n) as u32;
                let sent = end.look(now_ns, random);
                return self.send(who, sent);
            }
        }
        let due = self.under_way.iter().position(|(at, ..)| *at <= now_ns);
        if let Some(due) = due {
            let (_, to, packet) = self.under_way.remove(due);
            self.arrive(to, packet);
        }
    }

    fn arrive(&mut self, to: usize, packet: Packet) {
        let side = &mut self.sides[to];
        if side.frozen && side.end.as_ref().is_some_and(|end| !end.is_ours()) {
            side.waiting.push(packet);
            return;
        }
        side.heard_ns = self.now_ns;
        self.deliver(to, &packet);
    }

    fn deliver(&mut self, to: usize, packet: &Packet) {
        let now_ns = self.now_ns;
        let Some(end) = self.sides[to].end.as_mut() else {
            return;
        };
        let sent = end.receive(packet, now_ns);
        self.note(to);
        self.send(to, sent);
    }

    /// Everything that the attacker sends before anything else happens, to those ends that are ours.
    fn attack_until(&mut self, until_ns: u64) {
        let Some(mut attacker) = self.attacker.take() else {
            return;
        };
        while attacker.next_ns < until_ns.min(self.next_ns()) {
            self.now_ns = attacker.next_ns;
            let packet = attacker.send();
            for to in 0..2 {
                let side = &self.sides[to];
                if attacker.aims_at[to] && side.end.as_ref().is_some_and(End::is_ours) {
                    self.attacks += 1;
                    self.deliver(to, &packet);
                }
            }
        }
        self.attacker = Some(attacker);
    }

    fn send(&mut self, from: usize, sent: Option<Sent>) {
        let side = &mut self.sides[from];
        let packet = match sent {
            None => return,
            Some(Sent::Transmission(packet)) => {
                side.log.sent_ns.push(self.now_ns);
                packet
            }
            Some(Sent::Stateless(packet)) => {
                side.log.stateless_ns.push(self.now_ns);
                packet
            }
        };
        if side.cut || self.stormy(from) {
            return;
        }
        let arrives_ns = self.now_ns + self.setting.delay_ns;
        self.under_way.push((arrives_ns, 1 - from, packet));
    }

    /// Whether what `from` sends now gets lost: for half an interval in every third one, often. So
    /// nobody misses two packets in a row.
    fn stormy(&self, from: usize) -> bool {
        let setting = self.setting;
        let window = self.now_ns / (setting.interval_ns() / 2);
        setting.storms
            && window.is_multiple_of(6)
            && hash(setting.seed, 3 + from as u64, window) % 10 < 5
    }

    fn happen(&mut self, what: Happening) {
        let now_ns = self.now_ns;
        match what {
            Happening::Start(who, known) => self.start(who, known),
            Happening::Stop(who) => {
                let side = &mut self.sides[who];
                (side.end, side.frozen) = (None, false);
                side.waiting.clear();
            }
            Happening::Freeze(who) => self.sides[who].frozen = true,
            Happening::Thaw(who) => {
                let side = &mut self.sides[who];
                side.frozen = false;
                side.end.iter_mut().for_each(|end| end.thaw(now_ns));
                for packet in std::mem::take(&mut side.waiting) {
                    self.arrive(who, packet);
                }
            }
            Happening::Cut(who) => self.sides[who].cut = true,
            Happening::Heal(who) => self.sides[who].cut = false,
            Happening::Farewell(who) => {
                self.sides[who]
                    .end
                    .iter_mut()
                    .for_each(|end| end.admin_down(now_ns));
                self.note(who);
            }
            Happening::AttackBegins => self.attacker.iter_mut().for_each(|a| a.start(now_ns)),
            Happening::AttackEnds => self.attacker.iter_mut().for_each(Attacker::stop),
        }
    }

    fn start(&mut self, who: usize, known: bool) {
        let setting = self.setting;
        let side = &mut self.sides[who];
        side.started += u64::from(!known || side.started == 0);
        let discr = hash(setting.seed, 5 + who as u64, side.started) as u32 | 1;
        let timers = setting.timers[who];
        let end = match setting.peer {
            Peer::Deployed(release) if who == 1 => {
                End::deployed(timers, discr, release, self.now_ns)
            }
            _ => End::ours(timers, discr, self.without, self.now_ns),
        };
        (side.end, side.frozen) = (Some(end), false);
        side.waiting.clear();
        side.log
            .changes
            .push((self.now_ns, State::Down, DownReason::None));
    }

    /// Notes how an end has changed.
    fn note(&mut self, who: usize) {
        let side = &mut self.sides[who];
        let Some(end) = &side.end else { return };
        let session = end.session();
        if side.log.changes.last().map(|last| last.1) != Some(session.state) {
            let change = (self.now_ns, session.state, session.down_reason);
            side.log.changes.push(change);
        }
        let learned = (
            session.peer_mode,
            session.peer_version,
            session.peer_desired_min_tx_us,
            session.peer_required_min_rx_us,
        );
        if end.is_ours() && !side.log.learned.contains(&learned) {
            side.log.learned.push(learned);
        }
        let silent = self.now_ns > side.heard_ns + self.setting.detect_ns() + MS;
        if end.is_ours() && session.state == State::Up && silent {
            side.log.believed_nobody_ns.push(self.now_ns);
        }
    }
}

impl Side {
    fn next_ns(&self) -> u64 {
        let Some(end) = &self.end else {
            return u64::MAX;
        };
        match (self.frozen, end.is_ours()) {
            (true, false) => u64::MAX,
            (true, true) => end.deadline_ns(),
            (false, _) => end.look_at_ns().min(end.deadline_ns()),
        }
    }
}
