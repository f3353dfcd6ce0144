//! The session state machine: one BFD-like session, as pure functions of (session, event, now).
//!
//! ```text
//!              ┌──────┐      Down      ┌──────┐
//!              │      │───────────────▶│      │
//!      ┌──────▶│ Down │                │ Init │──┐
//!      │       │      │◀───────────────│      │  │ detection deadline,
//!      │       └──────┘                └──────┘  │ Down or AdminDown
//!      │           │       Init or Up       │    │ lead back to Down
//!      │           ▼                        ▼    │
//!      │       ┌──────┐◀────────────────────┘    │
//!      └───────│  Up  │──────────────────────────┘
//!              └──────┘      AdminDown: entered and left by command only
//! ```
//!
//! Only packets that echo our discriminator step the machine: they are *proven*, for only who has
//! received from us can know it. What is not proven changes nothing; some of it is answered without
//! the session taking note ([`Session::introduction`]), so that a peer which does not know us can
//! prove itself with its next packet. The deployed client believes more, see `deployed.rs`. Rules
//! marked *ours* differ from it on purpose; the protocol notes in ARCHITECTURE.md say why.
//!
//! Everything here is inlined into a BPF program that holds a spin lock, hence: no calls that stay
//! calls, no loops, no wide multiplication.

use crate::packet::{Packet, State, Version};
pub use crate::timers::{Mode, Timers};

/// Nanoseconds in a microsecond.
pub const NS_PER_US: u64 = 1_000;

/// The reason why a session last went Down; names as in the deployed client's metrics.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::TryFromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub enum DownReason {
    /// Not down, or never been up.
    None = 0,
    /// The detection deadline passed.
    Timeout = 1,
    /// The peer said AdminDown.
    RemoteAdmin = 2,
    /// A local command.
    LocalAdmin = 3,
    /// The peer said Down.
    RemoteDown = 4,
}

impl DownReason {
    /// Name in metrics, JSON and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Timeout => "timeout",
            Self::RemoteAdmin => "remote_admin",
            Self::LocalAdmin => "local_admin",
            Self::RemoteDown => "remote_down",
        }
    }
}

/// One session. Instants in ns of `CLOCK_MONOTONIC`, 0 = never.
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
pub struct Session {
    /// When the session goes Down unless something is received; 0 = disarmed.
    pub detect_deadline_ns: u64,
    /// Last packet taken by rule 6.
    pub last_rx_ns: u64,
    /// Last transmission of any kind: answer or our own.
    pub last_tx_ns: u64,
    /// When our own clock transmits next if no answer goes out before.
    pub next_tx_ns: u64,
    /// When the present state was entered.
    pub since_ns: u64,
    /// First packet accepted since the session was last Down: where convergence starts.
    pub first_rx_ns: u64,
    /// Time in µs from the transmission before the last one to the last one, and from the one
    /// before that to it; at most `u32::MAX`.
    pub tx_gaps_us: [u32; 2],
    /// Its configuration.
    pub timers: Timers,
    /// `bfd.LocalDiscr`, non-zero.
    pub local_discr: u32,
    /// The peer's discriminator in the last proven packet, 0 until there was one. What is sent as
    /// `bfd.RemoteDiscr` is [`Session::echo`].
    pub peer_discr: u32,
    /// `bfd.RemoteMinTxInterval` (desired), clamped; 0 until learned.
    pub peer_desired_min_tx_us: u32,
    /// `bfd.RemoteMinRxInterval` (required), clamped; 0 until learned.
    pub peer_required_min_rx_us: u32,
    /// Back-off factor while Down: a power of two, at least 1.
    pub backoff: u32,
    /// State changes since the session was created.
    pub transitions: u32,
    /// How often the session came Up.
    pub ups: u32,
    /// Version in the last packet that got past rules 1 and 2.
    pub peer_version: Version,
    /// `bfd.SessionState`.
    pub state: State,
    /// Why the session is Down; none when it leaves Down, as deployed.
    pub down_reason: DownReason,
    /// The last reason other than none, for people.
    pub last_down_reason: DownReason,
    /// The peer's mode by its own word, in the packet of [`Session::peer_version`].
    pub peer_mode: Mode,
    /// New states that may be told at once, see [`crate::pacing`].
    pub burst_left: u8,
    /// 1 while the present state has not been transmitted yet.
    pub announce: u8,
    /// While not Init or Up: 0 = transmissions echo nothing, else one more than how many still echo
    /// [`Session::peer_discr`].
    pub echoes_left: u8,
    /// Always zero.
    pub reserved: u8,
}

/// New states that may be told at once before [`crate::pacing`] sets in; also the most transmissions
/// within one transmit interval.
pub const BURST: u8 = 3;

/// The value of [`Session::echoes_left`] after Up was left: the first two packets echo the peer's
/// discriminator, so that a peer with our rules believes that we are Down.
const ECHOES_AFTER_UP: u8 = 3;

/// The rule that decided about a received packet, and so its effect.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Rule 1: we are AdminDown.
    AdminDown,
    /// Not proven, changed nothing: the peer does not know us, or not any more. It may be told who we
    /// are, see [`Session::introduction`].
    Unproven,
    /// As [`Self::Unproven`], and a Down of a sender with the discriminator that the peer had when it was
    /// last proven.
    Returning,
    /// Not proven, changed nothing: AdminDown, which takes nobody down unproven.
    UnprovenAdmin,
    /// Not proven, changed nothing: Init or Up that echo nothing (RFC 5880 §6.8.6).
    ZeroEcho,
    /// Not proven, changed nothing: Init or Up that echo somebody else, while we are Up.
    WrongDiscriminator,
    /// Rule 4: the peer is AdminDown.
    RemoteAdmin,
    /// Rule 5: the peer is Down and took us there.
    RemoteDown,
    /// Rule 5: a Down sent before the peer saw us Up.
    StaleDown,
    /// Rules 6 and 7: it counts as a sign of life.
    Accepted,
}

impl Receipt {
    /// Whether the packet echoed our discriminator, and we were not AdminDown.
    #[inline(always)]
    pub const fn is_proven(self) -> bool {
        matches!(
            self,
            Self::RemoteAdmin | Self::RemoteDown | Self::StaleDown | Self::Accepted
        )
    }
}

impl Session {
    /// Makes a session in Down that transmits at its next opportunity.
    #[inline(always)]
    pub const fn new(timers: Timers, local_discr: u32, now_ns: u64) -> Self {
        Self {
            detect_deadline_ns: 0,
            last_rx_ns: 0,
            last_tx_ns: 0,
            next_tx_ns: now_ns,
            since_ns: now_ns,
            first_rx_ns: 0,
            tx_gaps_us: [u32::MAX; 2],
            timers,
            local_discr,
            peer_discr: 0,
            peer_desired_min_tx_us: 0,
            peer_required_min_rx_us: 0,
            backoff: 1,
            transitions: 0,
            ups: 0,
            peer_version: Version::new([0; 4]),
            state: State::Down,
            down_reason: DownReason::None,
            last_down_reason: DownReason::None,
            peer_mode: Mode::Unknown,
            burst_left: BURST,
            announce: 1,
            echoes_left: 0,
            reserved: 0,
        }
    }

    /// Steps the machine by one decoded packet. Rule numbers are those of the protocol notes in
    /// ARCHITECTURE.md.
    #[inline(always)]
    pub fn receive(&mut self, packet: &Packet, now_ns: u64) -> Receipt {
        if self.state == State::AdminDown {
            return Receipt::AdminDown; // rule 1
        }
        if packet.your_discr != self.local_discr {
            return self.unproven(packet); // rule 2
        }
        // *Ours*: the deployed client takes it in rule 6, and not always (RFC 5880 §6.8.6 does).
        self.peer_discr = packet.my_discr;
        self.believe(packet, now_ns)
    }

    /// Rule 2: tells packets apart that do not echo our discriminator, and changes nothing.
    #[inline(always)]
    const fn unproven(&self, packet: &Packet) -> Receipt {
        match packet.state {
            State::AdminDown => return Receipt::UnprovenAdmin,
            State::Down if packet.my_discr == self.peer_discr => return Receipt::Returning,
            State::Down => {}
            State::Init | State::Up if packet.your_discr == 0 => return Receipt::ZeroEcho,
            State::Init | State::Up if matches!(self.state, State::Up) => {
                return Receipt::WrongDiscriminator;
            }
            // A peer that clings to a discriminator that was ours once. Or one whom a blind sender made
            // answer: so it has no precedence, for then he would have it.
            State::Init | State::Up => {}
        }
        Receipt::Unproven
    }

    /// Rules 3 to 7, but for the sender's discriminator.
    #[inline(always)]
    pub(crate) fn believe(&mut self, packet: &Packet, now_ns: u64) -> Receipt {
        // Rule 3.
        self.peer_mode = if packet.passive {
            Mode::Passive
        } else {
            Mode::Active
        };
        self.peer_version = packet.version;

        if packet.state == State::AdminDown {
            self.go_down(DownReason::RemoteAdmin, now_ns); // rule 4
            return Receipt::RemoteAdmin;
        }
        if packet.state == State::Down && matches!(self.state, State::Up | State::Init) {
            // Rule 5.
            if self.state == State::Up
                && now_ns.saturating_sub(self.since_ns) < self.detect_time_ns()
            {
                return Receipt::StaleDown;
            }
            self.go_down(DownReason::RemoteDown, now_ns);
            return Receipt::RemoteDown;
        }

        // Rule 6.
        self.peer_desired_min_tx_us = self.timers.clamp(packet.desired_min_tx_us);
        self.peer_required_min_rx_us = self.timers.clamp(packet.required_min_rx_us);
        self.last_rx_ns = now_ns;
        self.detect_deadline_ns = now_ns.saturating_add(self.detect_time_ns());

        // Rule 7.
        if self.state == State::Down && self.first_rx_ns == 0 {
            self.first_rx_ns = now_ns;
        }
        let echoed = packet.your_discr == self.local_discr
            && matches!(packet.state, State::Init | State::Up);
        match self.state {
            State::Down | State::Init if echoed => {
                self.ups = self.ups.wrapping_add(1);
                self.enter(State::Up, now_ns);
            }
            State::Down => self.enter(State::Init, now_ns),
            _ => {}
        }
        Receipt::Accepted
    }

    /// Takes the session Down if its detection deadline has passed. Returns whether it did.
    #[inline(always)]
    pub fn expire(&mut self, now_ns: u64) -> bool {
        let due = self.detect_deadline_ns != 0 && now_ns >= self.detect_deadline_ns;
        if !due || !matches!(self.state, State::Up | State::Init) {
            return false;
        }
        self.go_down(DownReason::Timeout, now_ns);
        true
    }

    /// Puts the session in AdminDown. Returns whether it was not there already.
    #[inline(always)]
    pub fn admin_down(&mut self, now_ns: u64) -> bool {
        if self.state == State::AdminDown {
            return false;
        }
        self.detect_deadline_ns = 0;
        self.first_rx_ns = 0;
        if self.state != State::Down {
            self.echoes_left = ECHOES_AFTER_UP; // not counted while AdminDown
        }
        self.enter(State::AdminDown, now_ns);
        self.down_reason = DownReason::LocalAdmin;
        self.last_down_reason = DownReason::LocalAdmin;
        true
    }

    /// Releases a session from AdminDown to Down. Returns whether it was in AdminDown.
    #[inline(always)]
    pub fn admin_up(&mut self, now_ns: u64) -> bool {
        if self.state != State::AdminDown {
            return false;
        }
        self.enter(State::Down, now_ns);
        self.down_reason = DownReason::LocalAdmin;
        true
    }

    /// Makes the packet that we would transmit now.
    #[inline(always)]
    pub const fn packet(&self, version: Version) -> Packet {
        Packet {
            state: self.state,
            detect_mult: self.timers.detect_mult,
            my_discr: self.local_discr,
            your_discr: self.echo(),
            desired_min_tx_us: self.timers.desired_min_tx_us,
            required_min_rx_us: self.timers.required_min_rx_us,
            passive: matches!(self.timers.mode, Mode::Passive),
            version,
            reserved_set: false,
        }
    }

    /// Returns `bfd.RemoteDiscr`, which we echo. While Down no more than two packets echo a peer that was
    /// proven once (RFC 5880 §6.8.1): it may have restarted, and one with the deployed rules ignores
    /// what echoes another than its own, but believes what echoes nothing.
    #[inline(always)]
    pub const fn echo(&self) -> u32 {
        if matches!(self.state, State::Init | State::Up) || self.echoes_left != 0 {
            self.peer_discr
        } else {
            0
        }
    }

    /// Makes the stateless answer to an unproven packet with this discriminator: a peer that is Down goes
    /// Up on it, and echoes us from then on. It is no transmission of the session: the session need not
    /// remember it, and it delays nothing.
    #[inline(always)]
    pub const fn introduction(&self, peer_discr: u32, version: Version) -> Packet {
        let mut packet = self.packet(version);
        packet.introduce(peer_discr);
        packet
    }

    /// Returns the detection time in ns: local multiplier × negotiated receive interval.
    #[inline(always)]
    pub const fn detect_time_ns(&self) -> u64 {
        self.timers.detect_mult as u64 * (self.rx_interval_us() as u64 * NS_PER_US)
    }

    /// Returns the negotiated receive interval in µs: how often a packet is expected.
    #[inline(always)]
    pub const fn rx_interval_us(&self) -> u32 {
        self.timers.clamp(max(
            self.peer_desired_min_tx_us,
            self.timers.required_min_rx_us,
        ))
    }

    /// Returns the negotiated transmit interval in µs, before jitter and back-off.
    #[inline(always)]
    pub const fn tx_interval_us(&self) -> u32 {
        self.timers.clamp(max(
            self.timers.desired_min_tx_us,
            self.peer_required_min_rx_us,
        ))
    }

    /// Enters Down (or stays there: a repeated AdminDown renews reason and back-off, as deployed).
    #[inline(always)]
    fn go_down(&mut self, reason: DownReason, now_ns: u64) {
        self.detect_deadline_ns = 0;
        self.first_rx_ns = 0;
        self.backoff = 1;
        if self.state != State::Down {
            self.echoes_left = match self.state {
                State::Up => ECHOES_AFTER_UP,
                _ => 0,
            };
            self.enter(State::Down, now_ns);
        }
        self.down_reason = reason;
        self.last_down_reason = reason;
    }

    #[inline(always)]
    fn enter(&mut self, state: State, now_ns: u64) {
        self.state = state;
        self.since_ns = now_ns;
        self.transitions = self.transitions.wrapping_add(1);
        self.down_reason = DownReason::None;
        self.backoff = 1;
        self.announce = 1;
    }
}

#[inline(always)]
const fn max(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}
