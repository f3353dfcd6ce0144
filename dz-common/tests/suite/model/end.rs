//! One end in a model whose clock counts transmit intervals.
//!
//! The code is the real one. Between steps its instants are moved so that it is always [`NOW_NS`],
//! and rounded to whole intervals; what has no influence on what the end does later is set to a
//! constant. So two ends that behave alike are equal.

use crate::support::{CONFIG, entry};
use dz_common::deployed::{Deployed, Release};
use dz_common::map::SessionEntry;
use dz_common::pacing::{BURST, Tick, due_now_stamp, long_ago_stamp};
use dz_common::packet::{Packet, State, Version};
use dz_common::session::{DownReason, Mode, NS_PER_US, Session, Timers};

/// A transmit interval is one tick.
pub(crate) const TICK_US: u32 = 1_000_000;
const TICK_NS: u64 = TICK_US as u64 * NS_PER_US;
/// The instant of every step.
const NOW_NS: u64 = 1_000 * TICK_NS;
/// 1 s × 3. Both kinds back off to four intervals: longer than the detection time, as in the field.
const TIMERS: Timers = Timers {
    desired_min_tx_us: TICK_US,
    required_min_rx_us: TICK_US,
    backoff_cap_us: 4 * TICK_US,
    ..Timers::DEFAULT
};
/// The middle of what jitter is drawn from: none.
const NO_JITTER: u32 = 1 << 31;

/// An end in bytes.
pub(crate) type EndCode = [u8; 14];

/// One end of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Ours(SessionEntry),
    Deployed(Deployed),
}

impl End {
    pub(crate) fn new(release: Option<Release>, discr: u32) -> Self {
        let mut end = match release {
            None => Self::Ours(entry(Session::new(TIMERS, discr, NOW_NS), 1)),
            Some(release) => Self::Deployed(Deployed::new(TIMERS, discr, release, NOW_NS)),
        };
        end.settle();
        end
    }

    pub(crate) fn session(&self) -> &Session {
        match self {
            Self::Ours(entry) => &entry.session,
            Self::Deployed(deployed) => &deployed.session,
        }
    }

    fn session_mut(&mut self) -> &mut Session {
        match self {
            Self::Ours(entry) => &mut entry.session,
            Self::Deployed(deployed) => &mut deployed.session,
        }
    }

    /// What the end would transmit now.
    pub(crate) fn packet(&self) -> Packet {
        match self {
            Self::Ours(entry) => entry.session.packet(CONFIG.version),
            Self::Deployed(deployed) => deployed.packet(CONFIG.version),
        }
    }

    /// Receives a packet; returns the answer.
    pub(crate) fn receive(&mut self, packet: &Packet) -> Option<Packet> {
        let answer = match self {
            Self::Ours(entry) => entry.receive(packet, &CONFIG, NOW_NS, true).answer,
            Self::Deployed(deployed) => {
                deployed.receive(packet, NOW_NS);
                None
            }
        };
        self.settle();
        answer
    }

    /// Lets the clock look; returns what it transmits.
    pub(crate) fn look(&mut self) -> Option<Packet> {
        let packet = match self {
            Self::Ours(entry) => {
                let (decision, _) = entry.session.tick(NOW_NS, NO_JITTER);
                (decision == Tick::Send).then(|| entry.session.packet(CONFIG.version))
            }
            Self::Deployed(deployed) => deployed.tick(NOW_NS, CONFIG.version, NO_JITTER),
        };
        self.settle();
        packet
    }

    /// Takes the session Down if its detection deadline has passed. Returns whether it did.
    pub(crate) fn expire(&mut self) -> bool {
        let expired = match self {
            Self::Ours(entry) => entry.expire(NOW_NS).is_some(),
            Self::Deployed(deployed) => deployed.expire(NOW_NS),
        };
        self.settle();
        expired
    }

    /// Lets an interval pass.
    pub(crate) fn age(&mut self) {
        let session = self.session_mut();
        for at_ns in [
            &mut session.last_tx_ns,
            &mut session.next_tx_ns,
            &mut session.since_ns,
        ] {
            *at_ns = at_ns.saturating_sub(TICK_NS);
        }
        if session.detect_deadline_ns != 0 {
            session.detect_deadline_ns -= TICK_NS;
        }
        if let Self::Ours(entry) = self {
            entry.introduced = long_ago_stamp(NOW_NS);
        }
        self.settle();
    }

    /// Makes equal what behaves alike.
    fn settle(&mut self) {
        let ours = matches!(self, Self::Ours(_));
        let session = self.session_mut();
        let alive = matches!(session.state, State::Init | State::Up);
        // Three intervals restore the burst allowance; no pacing looks further back.
        let oldest_ns = NOW_NS - 3 * TICK_NS;
        session.last_tx_ns = session.last_tx_ns.max(oldest_ns);
        // A stale Down is one within a detection time of coming Up.
        session.since_ns = match session.state {
            State::Up => session.since_ns.max(oldest_ns),
            _ => NOW_NS,
        };
        let ticks = (session.next_tx_ns.max(NOW_NS) - NOW_NS + TICK_NS / 2) / TICK_NS;
        session.next_tx_ns = NOW_NS + ticks * TICK_NS;
        if ours {
            if session.announce != 0 {
                session.next_tx_ns = NOW_NS; // our clock does not ask
            } else if alive {
                // Nor later than this.
                let overdue_ns = session.last_tx_ns + 2 * TICK_NS;
                session.next_tx_ns = session.next_tx_ns.min(overdue_ns.max(NOW_NS));
            }
            session.tx_gaps_us = session.tx_gaps_us.map(|gap_us| gap_us.min(TICK_US));
            // Of an interval's transmissions only this one's are counted.
            if session.last_tx_ns < NOW_NS {
                session.tx_gaps_us[0] = TICK_US;
            }
            if session.tx_gaps_us[0] == TICK_US {
                session.tx_gaps_us[1] = TICK_US;
            }
            if session.last_tx_ns == oldest_ns {
                session.burst_left = BURST;
            }
            if alive {
                session.echoes_left = 0; // set anew on leaving
            }
        } else {
            (session.tx_gaps_us, session.burst_left) = ([TICK_US; 2], 0);
            (session.announce, session.echoes_left) = (0, 0);
        }
        // For people, or the same for both ends all the time.
        (session.last_rx_ns, session.first_rx_ns) = (0, 0);
        (session.transitions, session.ups) = (0, 0);
        (session.peer_mode, session.peer_version) = (Mode::Unknown, Version::new([0; 4]));
        (
            session.peer_desired_min_tx_us,
            session.peer_required_min_rx_us,
        ) = (0, 0);
        (session.down_reason, session.last_down_reason) = (DownReason::None, DownReason::None);
        if let Self::Ours(entry) = self {
            (entry.received, entry.answered) = (0, 0);
            if entry.introduced != due_now_stamp(NOW_NS) {
                (entry.introduced, entry.introduced_unknown) = (long_ago_stamp(NOW_NS), 0);
            }
        }
    }

    /// The end in bytes: the same for ends that behave alike.
    pub(crate) fn code(&self) -> EndCode {
        let session = self.session();
        let ahead = |at_ns: u64| (at_ns.saturating_sub(NOW_NS) / TICK_NS) as u8;
        let ago = |at_ns: u64| ((NOW_NS - at_ns) / TICK_NS) as u8;
        let gaps = session.tx_gaps_us.map(|gap_us| (gap_us / TICK_US) as u8);
        let introduced = match self {
            Self::Ours(entry) if entry.introduced == due_now_stamp(NOW_NS) => {
                1 + entry.introduced_unknown
            }
            _ => 0,
        };
        [
            session.state as u8,
            session.local_discr as u8,
            session.peer_discr as u8,
            match session.detect_deadline_ns {
                0 => u8::MAX,
                at_ns => ahead(at_ns),
            },
            ahead(session.next_tx_ns),
            ago(session.last_tx_ns),
            ago(session.since_ns),
            gaps[0],
            gaps[1],
            session.backoff as u8,
            session.burst_left,
            session.announce,
            session.echoes_left,
            introduced,
        ]
    }

    /// The end of which this is the code.
    pub(crate) fn of(release: Option<Release>, code: &EndCode) -> Self {
        let ahead_ns = |ticks: u8| NOW_NS + u64::from(ticks) * TICK_NS;
        let ago_ns = |ticks: u8| NOW_NS - u64::from(ticks) * TICK_NS;
        let mut end = Self::new(release, u32::from(code[1]));
        let session = end.session_mut();
        session.state = State::ALL[usize::from(code[0])];
        session.peer_discr = u32::from(code[2]);
        session.detect_deadline_ns = match code[3] {
            u8::MAX => 0,
            ticks => ahead_ns(ticks),
        };
        session.next_tx_ns = ahead_ns(code[4]);
        session.last_tx_ns = ago_ns(code[5]);
        session.since_ns = ago_ns(code[6]);
        session.tx_gaps_us = [u32::from(code[7]) * TICK_US, u32::from(code[8]) * TICK_US];
        session.backoff = u32::from(code[9]);
        (session.burst_left, session.announce) = (code[10], code[11]);
        session.echoes_left = code[12];
        if let Self::Ours(entry) = &mut end
            && code[13] != 0
        {
            entry.introduced = due_now_stamp(NOW_NS);
            entry.introduced_unknown = code[13] - 1;
        }
        debug_assert_eq!(end.code(), *code);
        end
    }
}
