//! What an agent asks of the kernel, and how that may fail whatever the arguments are.

use std::net::Ipv4Addr;

use dz_common::map::{Confined, LocalKey, PeerKey, SessionKey};
use nix::errno::Errno;

/// One call, before it has done anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// A session is read.
    ReadSession(SessionKey),
    /// All sessions are read.
    ReadSessions,
    /// All peers are read.
    ReadPeers,
    /// All local addresses are read.
    ReadLocals,
    /// All confined addresses are read.
    ReadConfined,
    /// A block of counters is read.
    ReadCounters(u32),
    /// A session is inserted.
    InsertSession(SessionKey),
    /// A session is deleted.
    DeleteSession(SessionKey),
    /// A peer is written.
    SetPeer(PeerKey),
    /// A local address is written.
    SetLocal(LocalKey),
    /// A block of counters is set to zero.
    ClearCounters(u32),
    /// A local address is deleted.
    DeleteLocal(LocalKey),
    /// An address is confined.
    Confine(Confined),
    /// An address is not confined any more.
    Release(Confined),
    /// The heartbeat is written. Memory is mapped: it cannot fail.
    Beat,
    /// A deadline slot is written. Memory is mapped: it cannot fail.
    PrepareSlot(u32),
    /// The maps are made, or opened.
    MakeMaps,
    /// The configuration is written. Memory is mapped: it cannot fail.
    Configure,
    /// The control program is run, for this operation on this session.
    Control(u32, SessionKey),
    /// The transmit program is run, over so many orders.
    Transmit(u32),
    /// Programs are attached to an interface.
    Attach(u32),
    /// Programs are taken off an interface.
    Detach(u32),
    /// Netlink is asked for something that changes nothing: what, as in `rtnetlink(7)`.
    Ask(Ask),
    /// A neighbour is to be resolved by an interface.
    Resolve(u32, Ipv4Addr),
    /// A route to a destination by an interface is added.
    AddRoute(Ipv4Addr, u32),
    /// A route to a destination by an interface is deleted.
    DeleteRoute(Ipv4Addr, u32),
}

/// What netlink is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// An interface, or all of them.
    Links,
    /// All addresses.
    Addresses,
    /// The neighbours of an interface.
    Neighbours,
    /// All routes.
    Routes,
    /// The route that a packet would take.
    RouteOf,
}

/// Commands of bpf(2) on a hash: it copies key and value (`ENOMEM`), and refuses to wait for a bucket
/// that this processor has locked already (`htab_lock_bucket`).
const HASH: &[Errno] = &[Errno::ENOMEM, Errno::EBUSY];
/// A program run: memory for the packet, and a signal.
const RUN: &[Errno] = &[Errno::ENOMEM, Errno::EINTR];
const MEMORY: &[Errno] = &[Errno::ENOMEM];
/// A dump: no room in the socket, and one that was changed meanwhile.
const DUMP: &[Errno] = &[Errno::ENOBUFS, Errno::EINTR, Errno::ENOMEM];
const CHANGE: &[Errno] = &[Errno::ENOBUFS, Errno::ENOMEM];

impl Call {
    /// Returns what the kernel may refuse it with although its arguments are in order; nothing if it
    /// cannot fail.
    #[must_use]
    pub const fn may_fail_with(&self) -> &'static [Errno] {
        match self {
            Self::InsertSession(_)
            | Self::DeleteSession(_)
            | Self::SetPeer(_)
            | Self::SetLocal(_)
            | Self::DeleteLocal(_)
            | Self::Confine(_)
            | Self::Release(_) => HASH,
            Self::ReadSession(_)
            | Self::ReadSessions
            | Self::ReadPeers
            | Self::ReadLocals
            | Self::ReadConfined
            | Self::ReadCounters(_)
            | Self::MakeMaps
            | Self::ClearCounters(_)
            | Self::Attach(_) => MEMORY,
            Self::Beat | Self::PrepareSlot(_) | Self::Configure | Self::Detach(_) => &[],
            Self::Control(..) | Self::Transmit(_) => RUN,
            Self::Ask(_) => DUMP,
            Self::Resolve(..) | Self::AddRoute(..) | Self::DeleteRoute(..) => CHANGE,
        }
    }

    /// Says whether the call changes something that packets, other processes or a later agent find.
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(
            self,
            Self::ReadSession(_)
                | Self::ReadSessions
                | Self::ReadPeers
                | Self::ReadLocals
                | Self::ReadConfined
                | Self::ReadCounters(_)
                | Self::Ask(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_cannot_fail() {
        for call in [Call::Beat, Call::PrepareSlot(1), Call::Configure] {
            assert!(call.may_fail_with().is_empty(), "{call:?}");
            assert!(call.changes(), "{call:?}");
        }
        assert!(!Call::Ask(Ask::Routes).changes());
        assert!(
            Call::Ask(Ask::Routes)
                .may_fail_with()
                .contains(&Errno::EINTR)
        );
    }
}
