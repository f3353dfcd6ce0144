//! Requests and replies as JSON. Names are stable; units are in the names.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::address::{parse_host, parse_interface};
use crate::command::{Connected, Disconnected, Named, PeerSpec, Refusal, RefusalKind, Selector};

/// A peer to connect. What is left out is left to the agent.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRequest {
    /// The peer's address.
    pub peer: String,
    /// Our address; without it the agent takes the one that is meant, if that is clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The interface; without it the one that holds `local`, or whose tunnel starts there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Gateway of the peer's route; without it the far end of the interface's link, where `local` is
    /// not the interface's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Our desired transmit interval, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_interval_us: Option<u32>,
    /// Our required receive interval, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_interval_us: Option<u32>,
    /// Our detection multiplier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_mult: Option<u8>,
    /// Fewest hops that the peer's packets may have left; 0: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<u8>,
    /// Leave the peer's route alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<bool>,
}

impl PeerRequest {
    /// With what it leaves out taken from `defaults`, the peer's address excepted.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            peer: self.peer,
            local: self.local.or_else(|| defaults.local.clone()),
            interface: self.interface.or_else(|| defaults.interface.clone()),
            via: self.via.or_else(|| defaults.via.clone()),
            tx_interval_us: self.tx_interval_us.or(defaults.tx_interval_us),
            rx_interval_us: self.rx_interval_us.or(defaults.rx_interval_us),
            detect_mult: self.detect_mult.or(defaults.detect_mult),
            min_ttl: self.min_ttl.or(defaults.min_ttl),
            passive: self.passive.or(defaults.passive),
        }
    }

    /// Checks the peer.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn spec(&self) -> Result<PeerSpec, Vec<String>> {
        let mut faults = Vec::new();
        let mut take = |field: &str, parsed: Result<Ipv4Addr, String>| {
            parsed
                .map_err(|fault| faults.push(format!("{field} {fault}")))
                .ok()
        };
        let peer = take("peer", parse_host(&self.peer));
        let local = self
            .local
            .as_deref()
            .and_then(|local| take("local", parse_host(local)));
        let via = self
            .via
            .as_deref()
            .and_then(|via| take("via", parse_host(via)));
        if let Some(Err(fault)) = self.interface.as_deref().map(parse_interface) {
            faults.push(fault);
        }
        let Some(peer) = peer.filter(|_| faults.is_empty()) else {
            return Err(faults);
        };
        let spec = PeerSpec {
            interface: self.interface.clone(),
            peer,
            local,
            via,
            tx_interval_us: self.tx_interval_us,
            rx_interval_us: self.rx_interval_us,
            detect_mult: self.detect_mult,
            min_ttl: self.min_ttl,
            passive: self.passive,
        };
        faults.extend(spec.faults());
        if faults.is_empty() {
            Ok(spec)
        } else {
            Err(faults)
        }
    }

    /// Checks a batch.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn specs(requests: &[Self]) -> Result<Vec<PeerSpec>, Refusal> {
        let mut specs = Vec::with_capacity(requests.len());
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        for request in requests {
            match request.spec() {
                Ok(spec) if !seen.insert((spec.interface.clone(), spec.local, spec.peer)) => {
                    faults.push(format!("peer {}: given twice", spec.peer));
                }
                Ok(spec) => specs.push(spec),
                Err(found) => faults.extend(found),
            }
        }
        if requests.is_empty() {
            faults.push("no peer given".to_owned());
        }
        if faults.is_empty() {
            Ok(specs)
        } else {
            Err(invalid(faults))
        }
    }
}

impl From<&PeerSpec> for PeerRequest {
    fn from(spec: &PeerSpec) -> Self {
        Self {
            peer: spec.peer.to_string(),
            local: spec.local.map(|local| local.to_string()),
            interface: spec.interface.clone(),
            via: spec.via.map(|via| via.to_string()),
            tx_interval_us: spec.tx_interval_us,
            rx_interval_us: spec.rx_interval_us,
            detect_mult: spec.detect_mult,
            min_ttl: spec.min_ttl,
            passive: spec.passive,
        }
    }
}

/// Peers to disconnect: `peers` or `all`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DisconnectRequest {
    /// Their addresses, each as `ADDRESS` or, on one interface only, as `ADDRESS%INTERFACE` (as
    /// RFC 4007 §11 writes a zone).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// All that the API connected.
    #[serde(default)]
    pub all: bool,
    /// Only on this interface, for those that name none.
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

fn invalid(faults: Vec<String>) -> Refusal {
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
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// What the user should know.
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
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// What the user should know: that the peer could not be told, and so learns by timeout. Agents of
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
