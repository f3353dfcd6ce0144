//! Requests to the control program, passed as packet data of `BPF_PROG_TEST_RUN`, and their outcomes.
//!
//! The program's return value is its exit, an index into [`crate::counters::Counter::ALL`].

use crate::counters::{Counter, NO_BLOCK};
use crate::entry::Effect;
use crate::map::{PeerKey, SessionEntry, SessionKey};
use crate::packet::State;
use crate::session::Timers;

/// Where a request starts in the packet data: behind an Ethernet header, for the kernel wants one.
pub const REQUEST_OFFSET: usize = crate::headers::ETHERNET_LEN;

/// Initialise the timer of group [`Request::index`] and set its callback.
pub const OP_START_GROUP: u32 = 1;
/// Put a session in AdminDown.
pub const OP_ADMIN_DOWN: u32 = 2;
/// Delete the peer and put its session in AdminDown: the commit point of a disconnect. Without a
/// session only the peer is deleted.
pub const OP_DISCONNECT: u32 = 3;
/// Name the way around a session's peer, [`Request::index`]: `SessionEntry::detour`.
pub const OP_SET_DETOUR: u32 = 4;
/// Give a session other timers, [`Request::timers`]. Refused while it is Up and its peer would have to know
/// of them first ([`Timers::can_become`]).
pub const OP_SET_TIMERS: u32 = 5;
/// Say why a session does not count as Up, and whether its changes are told, [`Request::index`]:
/// `SessionEntry::held`.
pub const OP_HOLD: u32 = 6;

/// One request.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::TryFromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub struct Request {
    /// One of the `OP_*` constants.
    pub op: u32,
    /// A group, for [`OP_START_GROUP`]; an interface, for [`OP_SET_DETOUR`]; `HELD_*`, for [`OP_HOLD`].
    pub index: u32,
    /// The session meant.
    pub key: SessionKey,
    /// Its generation.
    pub generation: u32,
    /// The peer meant, for [`OP_DISCONNECT`].
    pub peer: PeerKey,
    /// The timers, for [`OP_SET_TIMERS`].
    pub timers: Timers,
}

impl Request {
    /// Fills the fields that the operation of a request does not use.
    pub const NONE: Self = Self {
        op: 0,
        index: 0,
        key: SessionKey {
            ifindex: 0,
            local: [0; 4],
            peer: [0; 4],
        },
        generation: 0,
        peer: PeerKey {
            ifname: [0; 16],
            peer: [0; 4],
        },
        timers: Timers::DEFAULT,
    };
}

/// The operation that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// [`OP_START_GROUP`]: ends as [`group_started`] says.
    StartGroup,
    /// [`OP_ADMIN_DOWN`]: [`SessionEntry::close`].
    AdminDown,
    /// [`OP_DISCONNECT`]: deletes the peer, then does what `AdminDown` does, and ends as
    /// [`disconnected`] says.
    Disconnect,
    /// [`OP_SET_DETOUR`]: [`SessionEntry::set_detour`].
    SetDetour,
    /// [`OP_SET_TIMERS`]: [`SessionEntry::set_timers`].
    SetTimers,
    /// [`OP_HOLD`]: [`SessionEntry::hold`].
    Hold,
}

impl Request {
    /// Returns the operation that is asked for; none if there is no such operation, which is [`REFUSED`].
    #[inline(always)]
    pub const fn command(&self) -> Option<Command> {
        Some(match self.op {
            OP_START_GROUP => Command::StartGroup,
            OP_ADMIN_DOWN => Command::AdminDown,
            OP_DISCONNECT => Command::Disconnect,
            OP_SET_DETOUR => Command::SetDetour,
            OP_SET_TIMERS => Command::SetTimers,
            OP_HOLD => Command::Hold,
            _ => return None,
        })
    }
}

/// Block and exit of a request that is malformed, or not possible now.
pub const REFUSED: (u32, Counter) = (NO_BLOCK, Counter::ControlRefused);
/// Block and exit of a command whose session is gone, or whose memory another one has.
pub const NO_SESSION: (u32, Counter) = (NO_BLOCK, Counter::ControlNoSession);

/// Block and exit of a command that was carried out on a session with this block.
#[inline(always)]
pub const fn done(block: u32) -> (u32, Counter) {
    (block, Counter::ControlDone)
}

/// Block and exit of [`Command::StartGroup`], and what is counted in no block besides. `started`: the
/// group's timer is initialised and started.
#[inline(always)]
pub const fn group_started(started: bool) -> ((u32, Counter), Option<Counter>) {
    if started {
        (done(NO_BLOCK), None)
    } else {
        (REFUSED, Some(Counter::TimerFailed))
    }
}

/// Block and exit of [`Command::Disconnect`]. `deleted`: there was such a peer; `closed`: what
/// [`Command::AdminDown`] came to.
#[inline(always)]
pub const fn disconnected(deleted: bool, closed: (u32, Counter)) -> (u32, Counter) {
    match closed {
        (_, Counter::ControlNoSession) if deleted => done(NO_BLOCK),
        _ => closed,
    }
}

impl SessionEntry {
    /// Puts the session in AdminDown, to be called under the lock. None: this is not the session that is
    /// meant, see [`NO_SESSION`].
    #[inline(always)]
    pub fn close(&mut self, request: &Request, now_ns: u64) -> Option<Effect> {
        if self.generation != request.generation {
            return None;
        }
        let transition = self.admin_down(now_ns);
        Some(Effect {
            deadline_ns: self.scan_deadline_ns(),
            // Whoever closes a session has it announced at once.
            next_due: None,
            transition,
            generation: self.generation,
            block: self.block,
        })
    }

    /// Names the way around the peer, to be called under the lock; returns block and exit. None: this is
    /// not the session that is meant, see [`NO_SESSION`].
    #[inline(always)]
    pub const fn set_detour(&mut self, request: &Request) -> Option<(u32, Counter)> {
        if self.generation != request.generation {
            return None;
        }
        self.detour = request.index;
        Some(done(self.block))
    }

    /// Gives the session other timers, to be called under the lock; returns block and exit. None: this is
    /// not the session that is meant, see [`NO_SESSION`]. The next packet announces them, and the deadline
    /// that is set stays: until the peer has heard of them it sends as before.
    #[inline(always)]
    pub const fn set_timers(&mut self, request: &Request) -> Option<(u32, Counter)> {
        if self.generation != request.generation {
            return None;
        }
        let session = &mut self.session;
        if matches!(session.state, State::Up) && !session.timers.can_become(&request.timers) {
            return Some((self.block, Counter::ControlRefused));
        }
        session.timers = request.timers;
        Some(done(self.block))
    }

    /// Holds the session, or lets it count, to be called under the lock; returns block and exit. None: this is
    /// not the session that is meant, see [`NO_SESSION`]. State, timers and packets go on as before.
    #[inline(always)]
    pub const fn hold(&mut self, request: &Request) -> Option<(u32, Counter)> {
        if self.generation != request.generation {
            return None;
        }
        self.held = request.index as u8;
        Some(done(self.block))
    }
}

const _: () = assert!(size_of::<Request>() == 68);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tells_of_packets;
    use crate::fixture::{NOW_NS, entry};
    use crate::map::{HELD_DAMPED, HELD_NEW, HELD_QUIET, NEVER_NS};
    use crate::session::{DownReason, Mode};

    /// A request for this session.
    fn request(entry: &SessionEntry, op: u32, index: u32) -> Request {
        Request {
            op,
            index,
            key: entry.key,
            generation: entry.generation,
            ..Request::NONE
        }
    }

    #[test]
    fn requests_ask_for_so_many_things() {
        for (op, command) in [
            (0, None),
            (OP_START_GROUP, Some(Command::StartGroup)),
            (OP_ADMIN_DOWN, Some(Command::AdminDown)),
            (OP_DISCONNECT, Some(Command::Disconnect)),
            (OP_SET_DETOUR, Some(Command::SetDetour)),
            (OP_SET_TIMERS, Some(Command::SetTimers)),
            (OP_HOLD, Some(Command::Hold)),
            (7, None),
            (u32::MAX, None),
        ] {
            let request = Request {
                op,
                ..Request::NONE
            };
            assert_eq!(request.command(), command, "{op}");
        }
    }

    #[test]
    fn a_session_goes_to_admin_down() {
        for state in [State::Down, State::Init, State::Up] {
            let mut entry = entry(state);
            let effect = entry.close(&request(&entry, OP_ADMIN_DOWN, 0), NOW_NS);
            let effect = effect.expect("the session meant");
            assert_eq!(entry.session.state, State::AdminDown);
            assert_eq!((effect.deadline_ns, effect.next_due), (NEVER_NS, None));
            assert_eq!(effect.block, entry.block);
            let event = effect.event(entry.key, NOW_NS).expect("a change");
            assert_eq!((event.from, event.to), (state, State::AdminDown));
            assert_eq!(event.reason, DownReason::LocalAdmin);
            assert_eq!((event.generation, event.at_ns), (entry.generation, NOW_NS));
        }
    }

    #[test]
    fn one_that_is_there_already_emits_nothing() {
        let mut entry = entry(State::AdminDown);
        let before = entry;
        let effect = entry.close(&request(&entry, OP_DISCONNECT, 0), NOW_NS);
        let effect = effect.expect("the session meant");
        assert_eq!(effect.event(entry.key, NOW_NS), None);
        assert_eq!((effect.deadline_ns, effect.next_due), (NEVER_NS, None));
        assert_eq!(entry, before);
    }

    #[test]
    fn another_generation_is_left_alone() {
        let mut entry = entry(State::Up);
        let before = entry;
        let mut other = request(&entry, OP_ADMIN_DOWN, 4);
        other.generation += 1;
        assert_eq!(entry.close(&other, NOW_NS), None);
        assert_eq!(entry.set_detour(&other), None);
        assert_eq!(entry.hold(&other), None);
        other.timers.detect_mult += 1;
        assert_eq!(entry.set_timers(&other), None);
        assert_eq!(entry, before);
    }

    #[test]
    fn a_detour_is_named_and_taken_back() {
        let mut entry = entry(State::Up);
        for index in [4, 0] {
            let mut expected = entry;
            expected.detour = index;
            let end = entry.set_detour(&request(&entry, OP_SET_DETOUR, index));
            assert_eq!(end, Some((entry.block, Counter::ControlDone)));
            assert_eq!(entry, expected);
        }
    }

    #[test]
    fn timers_change_unless_an_up_peer_would_have_to_know_first() {
        let now = Timers::DEFAULT;
        let rarer = Timers {
            desired_min_tx_us: now.desired_min_tx_us + 1,
            ..now
        };
        let stricter = Timers {
            required_min_rx_us: now.required_min_rx_us - 1,
            ..now
        };
        let gentle = Timers {
            desired_min_tx_us: now.desired_min_tx_us - 1,
            required_min_rx_us: now.required_min_rx_us + 1,
            detect_mult: 1,
            mode: Mode::Passive,
            min_ttl: 255,
            floor_us: 1,
            ..now
        };
        for (timers, while_up) in [(rarer, false), (stricter, false), (gentle, true)] {
            for state in [State::Down, State::Init, State::Up] {
                let mut entry = entry(state);
                entry.session.timers = now;
                let mut expected = entry;
                let exit = if state != State::Up || while_up {
                    expected.session.timers = timers;
                    Counter::ControlDone
                } else {
                    Counter::ControlRefused
                };
                let request = Request {
                    timers,
                    ..request(&entry, OP_SET_TIMERS, 0)
                };
                assert_eq!(entry.set_timers(&request), Some((entry.block, exit)));
                assert_eq!(entry, expected, "{state:?}");
            }
        }
    }

    #[test]
    fn a_session_is_held_and_let_go_whatever_its_state() {
        for state in [State::AdminDown, State::Down, State::Init, State::Up] {
            let mut entry = entry(state);
            for held in [
                0,
                HELD_DAMPED,
                HELD_NEW,
                HELD_QUIET,
                HELD_DAMPED | HELD_QUIET,
            ] {
                let mut expected = entry;
                expected.held = held;
                let end = entry.hold(&request(&entry, OP_HOLD, held.into()));
                assert_eq!(end, Some((entry.block, Counter::ControlDone)));
                assert_eq!(entry, expected);
                let counts = held & (HELD_DAMPED | HELD_NEW) == 0;
                assert_eq!(entry.counts_as_up(), counts && state == State::Up);
                assert_eq!(tells_of_packets(entry.held), held & HELD_QUIET == 0);
            }
        }
    }

    #[test]
    fn a_timer_that_cannot_be_started_is_counted() {
        let started = ((NO_BLOCK, Counter::ControlDone), None);
        assert_eq!(group_started(true), started);
        let failed = (
            (NO_BLOCK, Counter::ControlRefused),
            Some(Counter::TimerFailed),
        );
        assert_eq!(group_started(false), failed);
    }

    #[test]
    fn a_disconnect_is_done_with_a_peer_or_a_session() {
        let fault = (2, Counter::Fault);
        for (deleted, closed, end) in [
            (true, done(2), done(2)),
            (false, done(2), done(2)),
            (true, NO_SESSION, done(NO_BLOCK)),
            (false, NO_SESSION, NO_SESSION),
            (true, fault, fault),
            (false, fault, fault),
        ] {
            assert_eq!(disconnected(deleted, closed), end, "{deleted} {closed:?}");
        }
    }
}
