//! What the API asks of the engine: messages with a place for the reply.

use std::fmt;
use std::net::Ipv4Addr;

use dz_common::map::{Origin, Peer};
use dz_common::session::Timers;
use tokio::sync::oneshot;

use crate::policy::Timing;

/// A peer as somebody asks for it. What is `None` is left to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// The interface; without it the one that holds `local`, or whose tunnel starts there.
    pub interface: Option<String>,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// Our address, of whichever interface of this host; without it the agent takes the one that is
    /// meant, if that is clear.
    pub local: Option<Ipv4Addr>,
    /// Gateway of the peer's route; without it the far end of the interface's link, where `local` is
    /// not the interface's own.
    pub via: Option<Ipv4Addr>,
    /// Our desired transmit interval, µs.
    pub tx_interval_us: Option<u32>,
    /// Our required receive interval, µs.
    pub rx_interval_us: Option<u32>,
    /// Our detection multiplier.
    pub detect_mult: Option<u8>,
    /// Fewest hops that the peer's packets may have left (RFC 5082); 0: any.
    pub min_ttl: Option<u8>,
    /// Leave the peer's route alone.
    pub passive: Option<bool>,
}

impl PeerSpec {
    /// A peer with everything else left to the agent.
    pub const fn new(peer: Ipv4Addr, local: Ipv4Addr) -> Self {
        Self {
            interface: None,
            peer,
            local: Some(local),
            via: None,
            tx_interval_us: None,
            rx_interval_us: None,
            detect_mult: None,
            min_ttl: None,
            passive: None,
        }
    }

    /// What is written for it, with the agent's timers where it has none of its own. Addresses that it
    /// leaves out are zero.
    pub fn peer(&self, defaults: &Timers) -> Peer {
        let timing = Timing {
            tx_interval_us: self.tx_interval_us,
            rx_interval_us: self.rx_interval_us,
            detect_mult: self.detect_mult,
            min_ttl: self.min_ttl,
            passive: self.passive,
        };
        Peer {
            local: self.local.map_or([0; 4], |local| local.octets()),
            via: self.via.map_or([0; 4], |via| via.octets()),
            timers: timing.apply(*defaults),
            origin: Origin::Api,
            reserved: [0; 3],
        }
    }

    /// Whatever makes no sense about it, whatever the agent's state.
    pub fn faults(&self) -> Vec<String> {
        let Self { peer, local, .. } = self;
        let mut faults = Vec::new();
        if *local == Some(*peer) {
            faults.push(format!("peer {peer}: is the local address itself"));
        }
        match self.via {
            Some(via) if *local == Some(via) => {
                faults.push(format!("peer {peer}: gateway {via} is the local address"));
            }
            Some(via) if via == *peer => {
                faults.push(format!(
                    "peer {peer}: is its own gateway; leave the gateway out"
                ));
            }
            _ => {}
        }
        if self.detect_mult == Some(0) {
            faults.push(format!("peer {peer}: detection multiplier 0"));
        }
        for (name, interval_us) in [("tx", self.tx_interval_us), ("rx", self.rx_interval_us)] {
            if interval_us.is_some_and(|us| us < 1_000) {
                faults.push(format!("peer {peer}: {name} interval is below 1 ms"));
            }
        }
        faults
    }
}

/// A peer by its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Named {
    /// Only on this interface; without one on whichever has it.
    pub interface: Option<String>,
    /// The peer's address.
    pub peer: Ipv4Addr,
}

/// Which sessions a disconnect is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// These.
    Peers(Vec<Named>),
    /// All that the API connected.
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
        /// Which.
        selector: Selector,
        /// Answered when AdminDown is sent, the routes and the sessions are gone.
        reply: oneshot::Sender<Result<Vec<Disconnected>, Refusal>>,
    },
}

/// A session that is being kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// A session that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnected {
    /// Its interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// What the user should know, one sentence each: that the peer could not be told.
    pub warnings: Vec<String>,
}

/// Why a request was refused. Nothing was changed, unless a fault says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What sort of refusal.
    pub kind: RefusalKind,
    /// Every fault found, one sentence each; a batch lists them all.
    pub faults: Vec<String>,
}

/// Sorts of refusal.
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
