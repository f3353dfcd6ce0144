//! Requests of the API to the engine, each with a channel for the reply.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::settings::PeerSpec;

/// A peer by its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Named {
    /// The interface; without one the peer is meant on every interface that has it.
    pub interface: Option<String>,
    /// The peer's address.
    pub peer: Ipv4Addr,
}

/// Selects the sessions that a disconnect is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The sessions with these peers.
    Peers(Vec<Named>),
    /// All sessions that were connected through the API.
    All {
        /// Only on this interface.
        interface: Option<String>,
    },
}

/// A request to the engine. A dropped reply channel means that the engine is stopping.
#[derive(Debug)]
pub enum Command {
    /// Keep sessions with these peers: all of them or, refused, none.
    Connect {
        /// The peers, at least one.
        peers: Vec<PeerSpec>,
        /// Answered when the sessions are in the kernel.
        reply: oneshot::Sender<Result<Vec<Connected>, Refusal>>,
    },
    /// Give sessions up: all of them or, refused, none.
    Disconnect {
        /// The sessions to give up.
        selector: Selector,
        /// Answered when AdminDown is sent, the routes and the sessions are gone.
        reply: oneshot::Sender<Result<Vec<Disconnected>, Refusal>>,
    },
    /// Read the file of peers again.
    Reload {
        /// Also if it names nobody, or most peers would be given up.
        force: bool,
        /// Answered when peers are as the file wants them. Sessions that are given up are still being closed.
        reply: oneshot::Sender<Result<Reloaded, Refusal>>,
    },
}

/// What a reload of the file of peers has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The peers that the file names.
    pub peers: usize,
    /// The peers, of whatever source, that are new.
    pub added: usize,
    /// Those with other settings.
    pub changed: usize,
    /// Those that are given up.
    pub removed: usize,
}

/// A session that is being kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its interface.
    pub interface: Arc<str>,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// Warnings for the user, one sentence each.
    pub warnings: Vec<String>,
}

/// A session that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnected {
    /// Its interface.
    pub interface: Arc<str>,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// Warnings for the user, one sentence each: that the peer could not be told.
    pub warnings: Vec<String>,
}

/// Why a request was refused. Nothing was changed, unless a fault says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, by which the API chooses its status.
    pub kind: RefusalKind,
    /// Every fault found, one sentence each; a batch lists them all.
    pub faults: Vec<String>,
}

/// Tells refusals apart by their cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense, whatever the agent's state.
    Invalid,
    /// No such interface, address or peer.
    NotFound,
    /// Contradicts what is there: another local address for the peer, a configured peer.
    Conflict,
    /// No room for more sessions.
    Capacity,
    /// The agent cannot do it now: stopping, interface not there yet.
    Unavailable,
    /// The kernel refused, or a fault of ours.
    Internal,
}

impl RefusalKind {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Capacity => "capacity",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl Refusal {
    /// A refusal with one fault.
    pub fn new(kind: RefusalKind, fault: impl Into<String>) -> Self {
        Self {
            kind,
            faults: vec![fault.into()],
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("; "))
    }
}

impl std::error::Error for Refusal {}
