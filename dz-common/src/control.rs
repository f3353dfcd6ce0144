//! Requests to the control program, passed as packet data of `BPF_PROG_TEST_RUN`.
//!
//! The program's return value is its exit, an index into [`crate::counters::Counter::ALL`].

use crate::map::{PeerKey, SessionKey};

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
    /// A group, for [`OP_START_GROUP`]; an interface, for [`OP_SET_DETOUR`].
    pub index: u32,
    /// The session meant.
    pub key: SessionKey,
    /// Its generation.
    pub generation: u32,
    /// The peer meant, for [`OP_DISCONNECT`].
    pub peer: PeerKey,
}

impl Request {
    /// No request: what the constants above do not need stays like this.
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
    };
}

const _: () = assert!(size_of::<Request>() == 44);
