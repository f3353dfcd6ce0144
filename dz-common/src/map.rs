//! The layout of the BPF maps. `bpftool map dump` shows these structs by their field names.
//!
//! A change of size or meaning here is a change of [`ABI_VERSION`].

use crate::packet::State;
use crate::session::{DownReason, Session};

/// Version of everything in this module, kept in [`Config::abi_version`].
pub const ABI_VERSION: u32 = 6;
/// Deadline slots watched by one timer.
pub const SLOTS_PER_GROUP: u32 = 2_048;
/// Most timers, and with [`SLOTS_PER_GROUP`] the most sessions: 131,072.
pub const MAX_GROUPS: u32 = 64;
/// Most datagrams of one run of the transmit program.
pub const MAX_DUE: u32 = 256;
/// `Group::next_firing_ns` of a timer that is not armed.
pub const NEVER_NS: u64 = u64::MAX;
/// Shortest delay a detection timer is armed with where there are few of them, ns.
pub const MIN_SCAN_DELAY_NS: u64 = 250_000;
/// Shortest delay a detection timer is armed with where there are many of them, ns.
pub const MIN_SCAN_DELAY_OF_MANY_NS: u64 = 1_000_000;
/// Longest delay a detection timer is armed with, ns.
pub const MAX_SCAN_DELAY_NS: u64 = 250_000_000;

/// [`Due::flags`]: transmit the present state whether due or not (AdminDown at disconnect).
pub const DUE_FORCE: u32 = 1 << 0;
/// [`Due::flags`]: the interface has Ethernet headers.
pub const DUE_ETHERNET: u32 = 1 << 1;

/// [`SessionEntry::held`]: the session went Down too often lately, or others took its route too often.
pub const HELD_DAMPED: u8 = 1 << 0;
/// [`SessionEntry::held`]: the session has not been Up for long enough (`--hold-up`).
pub const HELD_NEW: u8 = 1 << 1;
/// [`SessionEntry::held`]: packets change the state faster than the agent wants to hear of; no events are made of
/// these changes. It does not hold the session.
pub const HELD_QUIET: u8 = 1 << 2;
/// [`Peer::left_out`]: the desired transmit interval.
pub const LEFT_OUT_TX: u8 = 1 << 0;
/// [`Peer::left_out`]: the required receive interval.
pub const LEFT_OUT_RX: u8 = 1 << 1;
/// [`Peer::left_out`]: the detection multiplier.
pub const LEFT_OUT_MULT: u8 = 1 << 2;
/// [`Peer::left_out`]: the fewest hops left.
pub const LEFT_OUT_TTL: u8 = 1 << 3;
/// [`Peer::left_out`]: the mode.
pub const LEFT_OUT_MODE: u8 = 1 << 4;

/// Names of the maps, at most 15 characters (`BPF_OBJ_NAME_LEN`).
pub mod name {
    #![allow(missing_docs, reason = "the value is the documentation")]
    pub const CONFIG: &str = "dz_config";
    pub const CONFINED: &str = "dz_confined";
    pub const COUNTERS: &str = "dz_counters";
    pub const DEADLINES: &str = "dz_deadlines";
    pub const DUE: &str = "dz_due";
    pub const EVENTS: &str = "dz_events";
    pub const GROUPS: &str = "dz_groups";
    pub const HEARTBEAT: &str = "dz_heartbeat";
    pub const LOCALS: &str = "dz_locals";
    pub const PEERS: &str = "dz_peers";
    pub const SESSIONS: &str = "dz_sessions";
}

macro_rules! map_types {
    ($($(#[$meta:meta])+ pub struct $name:ident { $($(#[$field_meta:meta])+ pub $field:ident: $type:ty,)+ })+) => {
        $(
            $(#[$meta])+
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[cfg_attr(feature = "user", derive(
                zerocopy::TryFromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable
            ))]
            pub struct $name { $($(#[$field_meta])+ pub $field: $type,)+ }
        )+
    };
}

map_types! {
    /// Key of `dz_sessions`: where the packets of a session arrive, and where the gate stops those
    /// that leave. With a peer there is one session by an interface, whatever our address.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct Destination {
        /// The interface, as the kernel numbers it.
        pub ifindex: u32,
        /// The peer's address.
        pub peer: [u8; 4],
    }

    /// Identity of a session.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct SessionKey {
        /// The interface, as the kernel numbers it.
        pub ifindex: u32,
        /// Our address.
        pub local: [u8; 4],
        /// The peer's address.
        pub peer: [u8; 4],
    }

    /// Key of `dz_locals`, whose value is a block number of `dz_counters`: every IPv4 address that
    /// an interface of ours holds.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct LocalKey {
        /// The interface, as the kernel numbers it.
        pub ifindex: u32,
        /// One of its addresses.
        pub addr: [u8; 4],
    }

    /// Key of `dz_confined`, whose value is the index of the interface: an address that only
    /// interfaces with a gate hold. A packet from it must not leave by another one.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct Confined {
        /// The address.
        pub addr: [u8; 4],
    }

    /// Key of `dz_peers`. By name, for a peer outlives the interface's index.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct PeerKey {
        /// Interface name, padded with zeros.
        pub ifname: [u8; 16],
        /// The peer's address.
        pub peer: [u8; 4],
    }

    /// Value of `dz_peers`: the intent to keep a session with a peer.
    pub struct Peer {
        /// Our address.
        pub local: [u8; 4],
        /// Gateway of the route, 0.0.0.0 = none.
        pub via: [u8; 4],
        /// The configuration of its session.
        pub timers: crate::session::Timers,
        /// The source that asked for it.
        pub origin: Origin,
        /// The timers that a request left to the agent, as `LEFT_OUT_*`: an agent with other defaults changes
        /// these. Zero, as from layouts before 6: the request is taken to have said everything.
        pub left_out: u8,
        /// Always zero.
        pub reserved: [u8; 2],
    }

    /// `struct bpf_spin_lock`: the verifier finds it by this type name.
    #[allow(non_camel_case_types, reason = "the kernel's name")]
    pub struct bpf_spin_lock {
        /// Opaque.
        pub val: u32,
    }

    /// `struct bpf_timer`: the verifier finds it by this type name.
    #[allow(non_camel_case_types, reason = "the kernel's name")]
    pub struct bpf_timer {
        /// Opaque.
        pub opaque: [u64; 2],
    }

    /// Value of `dz_sessions`. Inserted and deleted by the agent; in between written by kernel
    /// programs only, under the lock.
    pub struct SessionEntry {
        /// Guards everything below but the identity.
        pub lock: bpf_spin_lock,
        /// Index of the interface that the best route to the peer through no gated interface uses, 0
        /// = there is none. Of a packet that the gate diverts there the kernel looks up the next hop.
        pub detour: u32,
        /// Where this session's deadline is: index into `dz_deadlines`.
        pub slot: u32,
        /// Tells this entry from an earlier one in the same memory.
        pub generation: u32,
        /// This session's block in `dz_counters`.
        pub block: u32,
        /// Interface, local address and peer of the session, checked under the lock.
        pub key: SessionKey,
        /// State of the generator that jitter is drawn from (xorshift32, non-zero).
        pub random: u32,
        /// When an unproven packet was last answered: [`crate::pacing::due_now_stamp`].
        pub introduced: u32,
        /// Packets that matched the session and were valid (rule 1 and 2 included).
        pub received: u64,
        /// Answers sent from the receive path, but for those to unproven packets.
        pub answered: u64,
        /// Packets sent on our own clock.
        pub originated: u64,
        /// Last packet that matched the session, whatever became of it.
        pub last_seen_ns: u64,
        /// The state machine.
        pub session: Session,
        /// On Ethernet, the next hop of frames to the peer: the source of its last proven packet, or the
        /// destination of the last packet by our clock; zero until either is known. It lies in bytes that
        /// every packet touches anyway.
        pub neighbour: [u8; 6],
        /// 1 if the last unproven packet that was answered had another discriminator than the peer's last proven.
        pub introduced_unknown: u8,
        /// Why the session does not count as Up while it is Up ([`HELD_DAMPED`], [`HELD_NEW`]), and whether its
        /// changes are told ([`HELD_QUIET`]). The agent decides ([`crate::control::OP_HOLD`]); no packet changes it.
        pub held: u8,
    }

    /// Value of `dz_deadlines`: an index for the scan. The truth is in the session.
    pub struct Deadline {
        /// When the session is to be looked at, [`NEVER_NS`] = not at all, 0 = slot never used.
        pub deadline_ns: u64,
        /// The session of this slot.
        pub key: SessionKey,
        /// When our clock is to ask for this session, as of its last answer, or change of state by a
        /// packet or a deadline: [`crate::pacing::due_stamp`]. So it need not ask for one that answers.
        pub next_due: u32,
    }

    /// Value of `dz_groups`: the timer of [`SLOTS_PER_GROUP`] slots.
    pub struct Group {
        /// The timer.
        pub timer: bpf_timer,
        /// When the timer fires next, [`NEVER_NS`] = not armed. Compared and swapped.
        pub next_firing_ns: u64,
        /// When it last fired.
        pub last_firing_ns: u64,
    }

    /// Value of `dz_due`: a session that our clock has looked at, and when it should ask for it again.
    pub struct Due {
        /// In: the session.
        pub key: SessionKey,
        /// In: its generation.
        pub generation: u32,
        /// In: [`DUE_FORCE`], [`DUE_ETHERNET`].
        pub flags: u32,
        /// Out: the exit taken, an index into [`crate::counters::Counter::ALL`].
        pub exit: u32,
        /// Out: when to ask again; 0 if the session is gone.
        pub next_due_ns: u64,
        /// In, on Ethernet: the next hop's address, zero if not resolved yet.
        pub destination: [u8; 6],
        /// In, on Ethernet: the interface's address.
        pub source: [u8; 6],
        /// Always zero.
        pub reserved: u32,
    }

    /// An item of `dz_events`: one state change. It only tells the agent where to look; the truth is in
    /// the session.
    pub struct Event {
        /// The session.
        pub key: SessionKey,
        /// Its generation.
        pub generation: u32,
        /// When it happened.
        pub at_ns: u64,
        /// When convergence started: to Up, at the first packet accepted; to Down, when the first packet
        /// was missing, or with the packet that took us down.
        pub since_ns: u64,
        /// The session's `transitions` after the change: events of one session sort by it.
        pub sequence: u32,
        /// State before.
        pub from: State,
        /// State after.
        pub to: State,
        /// Why, if it went down.
        pub reason: DownReason,
        /// Always zero.
        pub reserved: u8,
    }

    /// Value of `dz_config`, index 0.
    pub struct Config {
        /// [`ABI_VERSION`] of the agent that created the maps.
        pub abi_version: u32,
        /// UDP port, host order.
        pub port: u16,
        /// 1: packets of unknown peers go on to the stack.
        pub unknown_pass: u8,
        /// 1: a peer's passive bit does not make the session passive.
        pub ignore_peer_passive: u8,
        /// Version announced in our packets.
        pub version: crate::packet::Version,
        /// Deadline groups in use.
        pub groups: u32,
        /// Answering stops when the heartbeat is older than this, ns.
        pub grace_ns: u64,
        /// Packets for a peer that was Up and is not.
        pub when_down: Action,
        /// Packets for a peer that was never Up.
        pub when_never_up: Action,
        /// Time to live of what we make.
        pub ttl: u8,
        /// Type of service of what we make: DSCP and ECN (RFC 2474).
        pub tos: u8,
        /// Protocol numbers that routes of ours may have: the agent's own, then those of earlier agents whose
        /// routes have not all been given that number yet. 0: none.
        pub route_protocols: [u8; 4],
    }
}

impl SessionKey {
    /// Where the session is found.
    #[inline(always)]
    pub const fn destination(&self) -> Destination {
        Destination {
            ifindex: self.ifindex,
            peer: self.peer,
        }
    }
}

/// The source that asked for a peer.
#[repr(u8)]
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
pub enum Origin {
    /// The API.
    Api = 0,
    /// The configuration file.
    Config = 1,
    /// A followed route.
    Follow = 2,
}

/// The gate's action on packets for a peer that is not Up.
#[repr(u8)]
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
pub enum Action {
    /// On into the tunnel, as if there were no gate.
    Pass = 0,
    /// Dropped.
    Drop = 1,
    /// Out by the best route through no gated interface.
    Reroute = 2,
}

const _: () = {
    assert!(size_of::<SessionKey>() == 12);
    assert!(size_of::<LocalKey>() == 8);
    assert!(size_of::<PeerKey>() == 20);
    assert!(size_of::<Peer>() == 36);
    assert!(size_of::<Session>() == 120);
    // The kernel puts 48 bytes of its own and the key before an entry (`struct htab_elem`): 256 in all,
    // so that the session proper has two cache lines of 64 bytes to itself.
    assert!(size_of::<Destination>() == 8);
    assert!(size_of::<SessionEntry>() == 200);
    assert!(48 + 8 + core::mem::offset_of!(SessionEntry, session) == 128);
    assert!(size_of::<Deadline>() == 24);
    assert!(size_of::<Group>() == 32);
    assert!(size_of::<Due>() == 48);
    assert!(size_of::<Event>() == 40);
    assert!(size_of::<Config>() == 32);
    assert!(size_of::<Confined>() == 4);
};
