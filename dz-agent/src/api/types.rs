//! Requests and replies as JSON. Names are stable; units are in the names.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Connected, Disconnected, Named, Refusal, RefusalKind, Reloaded, Selector};
use crate::settings::address::{parse_host, parse_interface};

/// Peers to disconnect: `peers` or `all`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DisconnectRequest {
    /// The peers' addresses, each as `ADDRESS` or, on one interface only, as `ADDRESS%INTERFACE` (as
    /// RFC 4007 §11 writes a zone).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Disconnects every peer that was connected through the API.
    #[serde(default)]
    pub all: bool,
    /// The interface of those that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl DisconnectRequest {
    /// Checks the request.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn selector(self) -> Result<Selector, Refusal> {
        let mut faults = Vec::new();
        if let Some(Err(fault)) = self.interface.as_deref().map(parse_interface) {
            faults.push(fault);
        }
        let mut peers = Vec::with_capacity(self.peers.len());
        for text in &self.peers {
            let (peer, zone) = match text.split_once('%') {
                Some((peer, zone)) => (peer, Some(zone)),
                None => (text.as_str(), None),
            };
            if let Some(Err(fault)) = zone.map(parse_interface) {
                faults.push(fault);
            }
            match parse_host(peer) {
                Ok(peer) => peers.push(Named {
                    interface: zone.map(str::to_owned).or_else(|| self.interface.clone()),
                    peer,
                }),
                Err(fault) => faults.push(format!("peer {fault}")),
            }
        }
        peers.sort_unstable();
        peers.dedup();
        if self.all != self.peers.is_empty() {
            faults.push("say which: either \"peers\" or \"all\": true".to_owned());
        }
        match (faults.is_empty(), self.all) {
            (false, _) => Err(invalid(faults)),
            (true, true) => Ok(Selector::All {
                interface: self.interface,
            }),
            (true, false) => Ok(Selector::Peers(peers)),
        }
    }
}

impl From<&Selector> for DisconnectRequest {
    fn from(selector: &Selector) -> Self {
        match selector {
            Selector::All { interface } => Self {
                all: true,
                interface: interface.clone(),
                ..Self::default()
            },
            Selector::Peers(peers) => Self {
                peers: peers
                    .iter()
                    .map(|Named { interface, peer }| match interface {
                        Some(interface) => format!("{peer}%{interface}"),
                        None => peer.to_string(),
                    })
                    .collect(),
                ..Self::default()
            },
        }
    }
}

/// Refuses a request that makes no sense.
pub(super) fn invalid(faults: Vec<String>) -> Refusal {
    Refusal {
        kind: RefusalKind::Invalid,
        faults,
    }
}

/// Reply to `POST /v1/peers`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ConnectedJson {
    /// The sessions, in the order asked for.
    pub connected: Vec<ConnectedPeer>,
}

/// A session that is being kept.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ConnectedPeer {
    /// Its interface.
    pub interface: Arc<str>,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// Warnings for the user, one sentence each.
    pub warnings: Vec<String>,
}

impl From<Vec<Connected>> for ConnectedJson {
    fn from(connected: Vec<Connected>) -> Self {
        let peer = |Connected {
                        interface,
                        local,
                        peer,
                        warnings,
                    }| ConnectedPeer {
            interface,
            local,
            peer,
            warnings,
        };
        Self {
            connected: connected.into_iter().map(peer).collect(),
        }
    }
}

/// Body of `POST /v1/reload`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Also if the file names no peer, or most peers would be given up.
    #[serde(default)]
    pub force: bool,
}

/// Reply to `POST /v1/reload`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct ReloadedJson {
    /// The peers that the file names.
    pub peers: usize,
    /// The peers, of whatever source, that are new.
    pub added: usize,
    /// Those with other settings.
    pub changed: usize,
    /// Those that are given up.
    pub removed: usize,
}

impl From<Reloaded> for ReloadedJson {
    fn from(reloaded: Reloaded) -> Self {
        let Reloaded {
            peers,
            added,
            changed,
            removed,
        } = reloaded;
        Self {
            peers,
            added,
            changed,
            removed,
        }
    }
}

/// Reply to `DELETE /v1/peers`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DisconnectedJson {
    /// The sessions that are gone.
    pub disconnected: Vec<DisconnectedPeer>,
}

/// A session that is gone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DisconnectedPeer {
    /// Its interface.
    pub interface: Arc<str>,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// Warnings for the user: that the peer could not be told, and so learns by timeout. Agents of
    /// version 0.1.0 do not say so.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl From<Vec<Disconnected>> for DisconnectedJson {
    fn from(disconnected: Vec<Disconnected>) -> Self {
        let peer = |Disconnected {
                        interface,
                        local,
                        peer,
                        warnings,
                    }| DisconnectedPeer {
            interface,
            local,
            peer,
            warnings,
        };
        Self {
            disconnected: disconnected.into_iter().map(peer).collect(),
        }
    }
}

/// Any refusal.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ErrorJson {
    /// The refusal.
    pub error: RefusalJson,
}

/// Why a request was refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RefusalJson {
    /// `invalid`, `not_found`, `conflict`, `capacity`, `unavailable` or `internal`.
    pub kind: String,
    /// Every fault found.
    pub faults: Vec<String>,
}

impl From<Refusal> for ErrorJson {
    fn from(refusal: Refusal) -> Self {
        let Refusal { kind, faults } = refusal;
        Self {
            error: RefusalJson {
                kind: kind.name().to_owned(),
                faults,
            },
        }
    }
}
