//! A request for a peer: unchecked, as JSON in API and file of peers has it, and checked.

use std::net::Ipv4Addr;

use dz_common::map::{Origin, Peer};
use dz_common::session::Timers;
use serde::{Deserialize, Serialize};

use super::address::{parse_host, parse_interface};
use super::policy::Timing;

use crate::hash::HashSet;

/// A checked request for a peer. The agent chooses each value that is `None`.
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
    /// Makes a request that leaves everything else to the agent.
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

    /// Returns the entry of `dz_peers` for it, with the agent's timers where it has none of its own.
    /// Addresses that it leaves out are zero.
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
            left_out: timing.left_out(),
            reserved: [0; 2],
        }
    }

    /// Lists the faults that it has whatever the agent's state.
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

/// An unchecked request for a peer, as JSON has it. The agent chooses each value that is left out.
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
    /// Takes each value that it leaves out from `defaults`, the peer's address excepted.
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
}

/// Peers of one request, each checked as it is added, so that the texts of 100,000 are never in memory at once.
#[derive(Debug, Default)]
pub struct PeerBatch {
    specs: Vec<PeerSpec>,
    seen: HashSet<(Option<String>, Option<Ipv4Addr>, Ipv4Addr)>,
    faults: Vec<String>,
}

impl PeerBatch {
    /// Adds the next one.
    pub fn add(&mut self, request: &PeerRequest) {
        match request.spec() {
            Ok(spec) => {
                let name = (spec.interface.clone(), spec.local, spec.peer);
                if self.seen.insert(name) {
                    self.specs.push(spec);
                } else {
                    self.faults.push(format!("peer {}: given twice", spec.peer));
                }
            }
            Err(found) => self.faults.extend(found),
        }
    }

    /// Returns the peers, in the order in which they were added.
    ///
    /// # Errors
    /// Every fault found; also that there is no peer.
    pub fn specs(mut self) -> Result<Vec<PeerSpec>, Vec<String>> {
        if self.specs.is_empty() && self.faults.is_empty() {
            self.faults.push("no peer given".to_owned());
        }
        if self.faults.is_empty() {
            Ok(self.specs)
        } else {
            Err(self.faults)
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
