//! One end: a session with our rules, less one clause where a test takes it out, or a deployed one.

use super::clause::Clause;
use crate::support::{CONFIG, entry};
use dz_common::counters::Counter;
use dz_common::deployed::{Deployed, Release};
use dz_common::map::SessionEntry;
use dz_common::pacing::{Answer, Tick, ahead_ns, long_ago_stamp};
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{Mode, Session, Timers};

/// What an end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A transmission of the session.
    Transmission(Packet),
    /// An answer that the session takes no note of.
    Stateless(Packet),
}

/// A session with our rules.
pub(crate) struct Ours {
    entry: SessionEntry,
    without: Option<Clause>,
    look_at_ns: u64,
    /// What the last unproven packet claimed and echoed, for ends that fall for it.
    claimed: u32,
    echoed: u32,
}

/// One end of a session.
pub(crate) enum End {
    Ours(Ours),
    Deployed(Deployed),
}

/// The version that deployed ends announce.
pub(crate) const DEPLOYED_VERSION: Version = Version::new([0, 34, 0, 0]);

impl End {
    pub(crate) fn ours(timers: Timers, discr: u32, without: Option<Clause>, now_ns: u64) -> Self {
        Self::Ours(Ours {
            entry: entry(Session::new(timers, discr, now_ns), 1),
            without,
            look_at_ns: now_ns,
            claimed: 0,
            echoed: 0,
        })
    }

    pub(crate) fn deployed(timers: Timers, discr: u32, release: Release, now_ns: u64) -> Self {
        Self::Deployed(Deployed::new(timers, discr, release, now_ns))
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    pub(crate) fn session(&self) -> &Session {
        match self {
            Self::Ours(ours) => &ours.entry.session,
            Self::Deployed(deployed) => &deployed.session,
        }
    }

    /// When the end's own clock looks next.
    pub(crate) fn look_at_ns(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.look_at_ns,
            Self::Deployed(deployed) => deployed.session.next_tx_ns,
        }
    }

    /// When the session goes Down unless something is received.
    pub(crate) fn deadline_ns(&self) -> u64 {
        match self.session().detect_deadline_ns {
            0 => u64::MAX,
            at_ns => at_ns,
        }
    }

    pub(crate) fn receive(&mut self, packet: &Packet, now_ns: u64) -> Option<Sent> {
        match self {
            Self::Ours(ours) => ours.receive(packet, now_ns),
            Self::Deployed(deployed) => {
                deployed.receive(packet, now_ns);
                None
            }
        }
    }

    /// The deadline has come.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        match self {
            Self::Ours(ours) => {
                let expired = ours.entry.expire(now_ns);
                assert!(expired.is_some(), "a deadline that takes nothing down");
                ours.woken(false, true, now_ns);
            }
            Self::Deployed(deployed) => assert!(deployed.expire(now_ns)),
        }
    }

    /// The clock looks. `random` is uniform over `u32`.
    pub(crate) fn look(&mut self, now_ns: u64, random: u32) -> Option<Sent> {
        match self {
            Self::Ours(ours) => ours.look(now_ns, random),
            Self::Deployed(deployed) => deployed
                .tick(now_ns, DEPLOYED_VERSION, random)
                .map(Sent::Transmission),
        }
    }

    /// A frozen end has thawed: its clock looks at once.
    pub(crate) fn thaw(&mut self, now_ns: u64) {
        if let Self::Ours(ours) = self {
            ours.look_at_ns = now_ns;
        }
    }

    /// Puts the session in AdminDown.
    pub(crate) fn admin_down(&mut self, now_ns: u64) {
        match self {
            Self::Ours(ours) => {
                ours.entry.admin_down(now_ns);
                ours.woken(false, true, now_ns);
            }
            Self::Deployed(deployed) => {
                deployed.session.admin_down(now_ns);
                deployed.session.next_tx_ns = now_ns;
            }
        }
    }
}

impl Ours {
    fn lacks(&self, clause: Clause) -> bool {
        self.without == Some(clause)
    }

    fn receive(&mut self, packet: &Packet, now_ns: u64) -> Option<Sent> {
        let session = &self.entry.session;
        let proven = packet.your_discr == session.local_discr;
        if proven || self.without.is_none() || session.state == State::AdminDown {
            return self.take(packet, now_ns);
        }
        let sent = self.receive_unproven(packet, now_ns);
        (self.claimed, self.echoed) = (packet.my_discr, packet.your_discr);
        sent
    }

    /// Receives a packet that is not proven by rules that lack a clause.
    fn receive_unproven(&mut self, packet: &Packet, now_ns: u64) -> Option<Sent> {
        let clause = self.without?;
        let session = &mut self.entry.session;
        let as_proven = Packet {
            your_discr: session.local_discr,
            ..*packet
        };
        match (clause, packet.state) {
            (Clause::DownNeedsProof, State::Down)
            | (Clause::AdminDownNeedsProof, State::AdminDown) => {
                let before = *session;
                let sent = self.take(&as_proven, now_ns);
                self.entry.session = having_learned(self.entry.session, &before);
                return sent;
            }
            (Clause::LifeNeedsProof, State::Init | State::Up) if packet.your_discr == 0 => {
                // As deployed.
                let mut deployed = Deployed {
                    session: *session,
                    release: Release::Since0_32,
                };
                deployed.receive(packet, now_ns);
                let changed = deployed.session.state != session.state;
                *session = having_learned(deployed.session, session);
                self.woken(false, changed, now_ns);
                return None;
            }
            (Clause::NothingIsAdopted, State::Init | State::Up)
                if session.state == State::Down
                    && packet.your_discr != 0
                    && packet.your_discr == self.echoed =>
            {
                session.local_discr = packet.your_discr;
                return self.take(packet, now_ns);
            }
            (Clause::IntervalsNeedProof, _) => {
                session.peer_desired_min_tx_us = session.timers.clamp(packet.desired_min_tx_us);
                session.peer_required_min_rx_us = session.timers.clamp(packet.required_min_rx_us);
            }
            (Clause::ModeNeedsProof, _) if packet.passive => session.peer_mode = Mode::Passive,
            (Clause::ModeNeedsProof, _) => session.peer_mode = Mode::Active,
            (Clause::VersionNeedsProof, _) => session.peer_version = packet.version,
            (Clause::DiscriminatorNeedsProof, _) => session.peer_discr = packet.my_discr,
            (Clause::AnswersArePaced, _) => self.entry.introduced = long_ago_stamp(now_ns),
            (Clause::ProvenPeerOvertakes, _) => self.entry.introduced_unknown = 0,
            (Clause::OnlyDownOvertakes, State::Init | State::Up)
                if session.state != State::Up
                    && packet.your_discr != 0
                    && packet.my_discr == session.peer_discr =>
            {
                let as_down = Packet {
                    state: State::Down,
                    ..*packet
                };
                return self.take(&as_down, now_ns);
            }
            (Clause::ClingingPeerIsAnswered, State::Init | State::Up) => return None,
            _ => {}
        }
        self.take(packet, now_ns)
    }

    fn take(&mut self, packet: &Packet, now_ns: u64) -> Option<Sent> {
        let outcome = self.entry.receive(packet, &CONFIG, now_ns, true);
        let answered = outcome.exit == Counter::RxAnswered;
        self.woken(answered, outcome.transition.is_some(), now_ns);
        let answer = outcome.answer?;
        if answered {
            return Some(Sent::Transmission(self.claiming(answer)));
        }
        if self.lacks(Clause::AnswerIsNoTransmission) {
            if self.entry.session.answer(false, now_ns) != Answer::Send {
                return None;
            }
            self.woken(true, false, now_ns);
        }
        Some(Sent::Stateless(answer))
    }

    fn woken(&mut self, answered: bool, changed: bool, now_ns: u64) {
        if let Some(stamp) = self.entry.due_stamp(answered, changed, now_ns) {
            self.look_at_ns = ahead_ns(stamp, now_ns).unwrap_or(now_ns);
        }
    }

    fn look(&mut self, now_ns: u64, random: u32) -> Option<Sent> {
        let session = &mut self.entry.session;
        if self.without == Some(Clause::DownForgetsEcho) && session.peer_discr != 0 {
            session.echoes_left = 3;
        }
        let (decision, next_ns) = session.tick(now_ns, random);
        self.look_at_ns = next_ns;
        (decision == Tick::Send)
            .then(|| Sent::Transmission(self.claiming(self.entry.session.packet(CONFIG.version))))
    }

    /// The packet, with what was last claimed for an echo where an end falls for that.
    fn claiming(&self, packet: Packet) -> Packet {
        if self.lacks(Clause::DownEchoesNoClaim) && packet.state == State::Down && self.claimed != 0
        {
            return Packet {
                your_discr: self.claimed,
                ..packet
            };
        }
        packet
    }
}

/// The session, knowing of the peer what it knew before.
fn having_learned(session: Session, before: &Session) -> Session {
    Session {
        peer_discr: before.peer_discr,
        peer_mode: before.peer_mode,
        peer_version: before.peer_version,
        peer_desired_min_tx_us: before.peer_desired_min_tx_us,
        peer_required_min_rx_us: before.peer_required_min_rx_us,
        ..session
    }
}
