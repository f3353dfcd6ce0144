//! One enum names every counter: every way out of a kernel program ([`Kind::Exit`]), whatever else
//! may happen on the way ([`Kind::Tally`]), and every state change
//! ([`Kind::Transition`]). The variant indexes a block of `dz_counters`, and its name is the field
//! that `bpftool map dump` shows, the label in the metrics and the row in `dz-agent counters`.

use crate::packet::{Reject, State};
use crate::session::DownReason;

/// The block for packets and events that belong to no interface and local address.
pub const NO_BLOCK: u32 = 0;

/// Tells counters apart by when they are added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts a way out: one run of a program (one datagram of a transmit run) adds one to exactly one.
    Exit,
    /// Counts an observation on the way to an exit.
    Tally,
    /// Counts a state change of a session.
    Transition,
}

macro_rules! counters {
    ($($kind:ident { $($(#[$doc:meta])+ $variant:ident = $field:ident,)+ })+) => {
        /// One counter.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($($(#[$doc])+ $variant,)+)+ }

        /// One block of counters, as in the map: per CPU, one block per interface and local
        /// address, and [`NO_BLOCK`] for what belongs to none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable
        ))]
        pub struct Counters { $($($(#[$doc])+ pub $field: u64,)+)+ }

        impl Counter {
            /// Every counter, in the order of the map.
            pub const ALL: &[Self] = &[$($(Self::$variant,)+)+];

            /// The name everywhere outside the code.
            pub const fn name(self) -> &'static str {
                match self { $($(Self::$variant => stringify!($field),)+)+ }
            }

            /// Returns the kind of the counter.
            pub const fn kind(self) -> Kind {
                match self { $($(Self::$variant => Kind::$kind,)+)+ }
            }
        }

        impl Counters {
            /// One counter's value.
            pub const fn get(&self, counter: Counter) -> u64 {
                match counter { $($(Counter::$variant => self.$field,)+)+ }
            }

            /// Adds another block (another CPU's, say) to this one.
            pub fn add(&mut self, other: &Self) {
                $($(self.$field = self.$field.wrapping_add(other.$field);)+)+
            }
        }
    };
}

counters! {
    Exit {
        // Ingress: not ours, passed on untouched.
        /// Not IPv4: ARP, IPv6 and the like.
        PassNotIpv4 = pass_not_ipv4,
        /// Carries a VLAN tag.
        PassVlan = pass_vlan,
        /// Ethernet frame for another host or for a group.
        PassNotHost = pass_not_host,
        /// Frame ends before its IPv4 or UDP header, or before the IPv4 total length.
        PassTruncated = pass_truncated,
        /// IPv4 header that the stack will refuse: version, lengths or checksum.
        PassIpHeader = pass_ip_header,
        /// IPv4 options.
        PassIpOptions = pass_ip_options,
        /// A fragment, the first one included.
        PassFragment = pass_fragment,
        /// Another protocol than UDP.
        PassNotUdp = pass_not_udp,
        /// UDP to another port.
        PassOtherPort = pass_other_port,
        /// Our port, but an address that this interface does not hold: in transit.
        PassNotLocal = pass_not_local,
        /// Our port and address, no session, policy `pass`.
        PassUnknownPeer = pass_unknown_peer,
        // Ingress: for us, dropped, session untouched.
        /// Our port and address, no session, policy `drop`.
        DropUnknownPeer = drop_unknown_peer,
        /// UDP length field below 8 or beyond the IPv4 packet.
        DropUdpLength = drop_udp_length,
        /// UDP payload below 40 bytes.
        DropShort = drop_short,
        /// UDP checksum wrong.
        DropUdpChecksum = drop_udp_checksum,
        /// Protocol version is not 1.
        DropVersion = drop_version,
        /// Length byte is not 40.
        DropLength = drop_length,
        /// Detection multiplier 0.
        DropZeroMultiplier = drop_zero_multiplier,
        /// Sender's discriminator 0.
        DropZeroDiscriminator = drop_zero_discriminator,
        /// From another port than the protocol's, where anybody on the peer's host can send from.
        DropSourcePort = drop_source_port,
        /// Fewer hops left than `--min-ttl` demands (RFC 5082).
        DropTtl = drop_ttl,
        /// Rule 1: our session is AdminDown.
        DropAdminDown = drop_admin_down,
        // Ingress: valid, and not proven; changes nothing.
        /// AdminDown that does not echo our discriminator.
        DropUnprovenAdminDown = drop_unproven_admin_down,
        /// Init or Up that echoes discriminator 0 (RFC 5880 §6.8.6).
        DropZeroYourDiscriminator = drop_zero_your_discriminator,
        /// Init or Up that echoes a discriminator that is not ours, while we are Up.
        DropWrongDiscriminator = drop_wrong_discriminator,
        /// From a peer that does not know us: told who we are, without the session taking note.
        RxUnprovenAnswered = rx_unproven_answered,
        /// From a peer that does not know us, not answered: the last such answer is too recent.
        RxUnprovenPaced = rx_unproven_paced,
        /// From a peer that does not know us, not answered: on Ethernet, no next hop is known yet.
        RxUnprovenNoNeighbour = rx_unproven_no_neighbour,
        // Ingress: proven, the session took note.
        /// Answered in place.
        RxAnswered = rx_answered,
        /// Not answered: the peer is AdminDown.
        RxRemoteAdmin = rx_remote_admin,
        /// Not answered: our last transmission is too recent.
        RxPaced = rx_paced,
        /// Not answered: state changes faster than the burst allowance.
        RxBurstSpent = rx_burst_spent,
        /// Not answered, proven or not: the agent's heartbeat is older than the restart grace.
        RxUnattended = rx_unattended,
        /// Not answered in XDP, proven or not: longer than a packet, so it may be several in one (UDP GSO), and
        /// what generic XDP makes of one nobody receives. Our clock speaks instead.
        RxLong = rx_long,
        /// Answer due, but the frame could not be rewritten.
        RxAnswerFailed = rx_answer_failed,
        // Transmit program, one exit per entry of `dz_due`.
        /// Transmitted.
        TxOriginated = tx_originated,
        /// An answer went out meanwhile, or not due yet.
        TxNotDue = tx_not_due,
        /// The session is gone.
        TxNoSession = tx_no_session,
        /// Ethernet: no neighbour entry for the next hop yet.
        TxNoNeighbour = tx_no_neighbour,
        /// The interface refused the packet.
        TxFailed = tx_failed,
        // Egress: the gate. Not for a peer, or for one that may be sent to: passed on untouched.
        /// Not IPv4, or with a VLAN tag.
        GateNotIpv4 = gate_not_ipv4,
        /// To an address that is no peer's.
        GateNoSession = gate_no_session,
        /// A liveness packet.
        GateLiveness = gate_liveness,
        /// The session is Up.
        GateUp = gate_up,
        /// The session is not Up, and passive.
        GatePassive = gate_passive,
        /// The session is not Up, policy `pass`.
        GateDownPassed = gate_down_passed,
        /// The session was never Up, policy `pass`.
        GateNeverUpPassed = gate_never_up_passed,
        // Egress: kept out of the tunnel.
        /// Sent out by another interface.
        GateRerouted = gate_rerouted,
        /// Dropped, policy `drop`.
        GateDropped = gate_dropped,
        /// Dropped: its source address must not leave by another interface.
        GateConfined = gate_confined,
        /// Dropped: no route by another interface, or one by an interface with a gate for the same peer.
        GateNoDetour = gate_no_detour,
        /// Dropped: larger than what the other interface takes, and its source is not to be told (it may be
        /// fragmented, say).
        GateTooBig = gate_too_big,
        /// Became "fragmentation needed" to its source: larger than what the other interface takes.
        GateFragNeeded = gate_frag_needed,
        /// Dropped: could not be rewritten for the other interface, or that is gone.
        GateRerouteFailed = gate_reroute_failed,
        // Control program.
        /// Carried out.
        ControlDone = control_done,
        /// No such session, or another generation of it.
        ControlNoSession = control_no_session,
        /// Malformed request.
        ControlRefused = control_refused,
        // Detection timers.
        /// A group's slots were scanned.
        ScanDone = scan_done,
        /// A map that must exist did not answer.
        Fault = fault,
    }
    Tally {
        /// Valid packet with a reserved byte set.
        ReservedSet = reserved_set,
        /// Rule 5: a stale Down was ignored.
        StaleDown = stale_down,
        /// An event was put into `dz_events`.
        EventEmitted = event_emitted,
        /// `dz_events` was full; the agent scans instead.
        EventLost = event_lost,
        /// A detection timer could not be started.
        TimerFailed = timer_failed,
    }
    Transition {
        /// Down to Init.
        DownToInit = down_to_init,
        /// Down to Up.
        DownToUp = down_to_up,
        /// Init to Up.
        InitToUp = init_to_up,
        /// Init to Down, detection deadline.
        InitToDownTimeout = init_to_down_timeout,
        /// Init to Down, the peer is AdminDown.
        InitToDownRemoteAdmin = init_to_down_remote_admin,
        /// Init to Down, the peer is Down.
        InitToDownRemoteDown = init_to_down_remote_down,
        /// Up to Down, detection deadline.
        UpToDownTimeout = up_to_down_timeout,
        /// Up to Down, the peer is AdminDown.
        UpToDownRemoteAdmin = up_to_down_remote_admin,
        /// Up to Down, the peer is Down.
        UpToDownRemoteDown = up_to_down_remote_down,
        /// Down to AdminDown.
        DownToAdminDown = down_to_admin_down,
        /// Init to AdminDown.
        InitToAdminDown = init_to_admin_down,
        /// Up to AdminDown.
        UpToAdminDown = up_to_admin_down,
        /// AdminDown to Down.
        AdminDownToDown = admin_down_to_down,
    }
}

const _: () = assert!(size_of::<Counters>() == 8 * Counter::ALL.len());

impl Counter {
    /// Number of counters in a block.
    pub const COUNT: usize = Self::ALL.len();

    /// The exit for a payload that is not a liveness packet.
    #[inline(always)]
    pub const fn rejected(reject: Reject) -> Self {
        match reject {
            Reject::Short => Self::DropShort,
            Reject::Version => Self::DropVersion,
            Reject::Length => Self::DropLength,
            Reject::ZeroMultiplier => Self::DropZeroMultiplier,
            Reject::ZeroDiscriminator => Self::DropZeroDiscriminator,
        }
    }

    /// The counter of a state change, or none for one that the state machine cannot make.
    #[inline(always)]
    pub const fn transition(from: State, to: State, reason: DownReason) -> Option<Self> {
        Some(match (from, to, reason) {
            (State::Down, State::Init, _) => Self::DownToInit,
            (State::Down, State::Up, _) => Self::DownToUp,
            (State::Init, State::Up, _) => Self::InitToUp,
            (State::Init, State::Down, DownReason::Timeout) => Self::InitToDownTimeout,
            (State::Init, State::Down, DownReason::RemoteAdmin) => Self::InitToDownRemoteAdmin,
            (State::Init, State::Down, DownReason::RemoteDown) => Self::InitToDownRemoteDown,
            (State::Up, State::Down, DownReason::Timeout) => Self::UpToDownTimeout,
            (State::Up, State::Down, DownReason::RemoteAdmin) => Self::UpToDownRemoteAdmin,
            (State::Up, State::Down, DownReason::RemoteDown) => Self::UpToDownRemoteDown,
            (State::Down, State::AdminDown, _) => Self::DownToAdminDown,
            (State::Init, State::AdminDown, _) => Self::InitToAdminDown,
            (State::Up, State::AdminDown, _) => Self::UpToAdminDown,
            (State::AdminDown, State::Down, _) => Self::AdminDownToDown,
            _ => return None,
        })
    }
}
