//! Connects peers by request: it validates everything, writes each peer, inserts its session and transmits.
//! The route is installed when the session goes Up.

use std::net::Ipv4Addr;

use dz_common::map::{Origin, Peer, PeerKey};
use dz_common::session::Timers;
use tracing::{info, warn};

use crate::command::{Connected, Refusal, RefusalKind};
use crate::engine::flows::choose::Sources;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::keys::{RouteKey, ifname, peer_key};
use crate::engine::state::wants::same;
use crate::hash::HashSet;
use crate::settings::PeerSpec;

/// How many peers of a request are connected before the loop's other work of that time is done.
const PEERS_PER_PORTION: usize = 256;

/// A request under way: all of its peers have been validated.
pub(crate) struct Connecting {
    /// The peers that are still to be connected, the first one last.
    left: Vec<Validated>,
    connected: Vec<Connected>,
    /// The peers that this request has written.
    written: Vec<PeerKey>,
}

impl Connecting {
    /// Returns the peers that have been connected.
    pub(crate) fn done(self) -> Vec<Connected> {
        self.connected
    }
}

/// A peer of a request that has been validated.
struct Validated {
    key: PeerKey,
    peer: Peer,
    /// Whether exactly this peer is connected already.
    known: bool,
}

impl<H: Hands> Engine<H> {
    /// Validates a request to connect all of the peers, or none if any is refused. `sources`: from
    /// [`Self::prepare`]. The caller goes on with [`Self::connect_some`].
    pub(crate) fn begin_connect(
        &self,
        specs: &[PeerSpec],
        sources: &Sources,
    ) -> Result<Connecting, Refusal> {
        let mut left = self.validate_peers(specs, sources)?;
        left.reverse();
        Ok(Connecting {
            connected: Vec::with_capacity(left.len()),
            written: Vec::new(),
            left,
        })
    }

    /// Connects the next portion of a request's peers. Returns whether any are left. If one fails, those that the
    /// request has written are disconnected.
    pub(crate) fn connect_some(&mut self, request: &mut Connecting) -> Result<bool, Refusal> {
        let first = request.left.len().saturating_sub(PEERS_PER_PORTION);
        for Validated { key, peer, known } in request.left.split_off(first).into_iter().rev() {
            if !known {
                let result = self
                    .hands
                    .set_peer(&key, &peer)
                    .map_err(anyhow::Error::from);
                if result.is_ok() {
                    self.peers.insert(key, peer);
                    request.written.push(key);
                }
                if let Err(error) = result.and_then(|()| self.open(&key)) {
                    self.undo(&request.written);
                    let fault = format!("peer {}: {error:#}", Ipv4Addr::from(key.peer));
                    return Err(Refusal::new(RefusalKind::Internal, fault));
                }
            }
            let (interface, local) = (ifname(&key), Ipv4Addr::from(peer.local));
            let peer_address = Ipv4Addr::from(key.peer);
            if known {
                self.remember_words(&key, &peer);
                info!(interface, %local, peer = %peer_address, "connected already");
            } else {
                info!(interface, %local, peer = %peer_address, "connected");
            }
            request.connected.push(Connected {
                interface: self.interfaces.kept_name(interface),
                local,
                peer: peer_address,
                warnings: warnings(&peer.timers),
            });
        }
        self.tick();
        Ok(!request.left.is_empty())
    }

    /// Remembers what a repeated request says of a peer and earlier ones did not: the values are the same, but now
    /// they stay when the agent's defaults change.
    fn remember_words(&mut self, key: &PeerKey, asked: &Peer) {
        let Some(found) = self.peers.get(key).copied() else {
            return;
        };
        let left_out = found.left_out & asked.left_out;
        if found.origin != Origin::Api || left_out == found.left_out {
            return;
        }
        let peer = Peer { left_out, ..found };
        match self.hands.set_peer(key, &peer) {
            Ok(()) => {
                self.peers.insert(*key, peer);
            }
            Err(error) => {
                warn!(peer = %Ipv4Addr::from(key.peer), %error, "peer not written: what the request says is not kept over a restart");
            }
        }
    }

    /// Disconnects the peers of a request that have been written before another one failed.
    fn undo(&mut self, written: &[PeerKey]) {
        let (reply, _) = tokio::sync::oneshot::channel();
        self.disconnect_keys(written.to_vec(), reply);
    }

    /// Validates a request before anything is changed. A refusal lists every fault.
    fn validate_peers(
        &self,
        specs: &[PeerSpec],
        sources: &Sources,
    ) -> Result<Vec<Validated>, Refusal> {
        let mut kind = RefusalKind::Invalid;
        let mut faults = Vec::new();
        let mut validated = Vec::new();
        let mut named = HashSet::default();
        for spec in specs {
            let own = spec.faults();
            if !own.is_empty() {
                faults.extend(own);
                continue;
            }
            match self.validate_peer(spec, sources) {
                Ok(one) if !named.insert(one.key) => {
                    faults.push(format!("peer {}: named twice", spec.peer));
                }
                Ok(one) => validated.push(one),
                Err(refusal) => {
                    kind = refusal.kind;
                    faults.extend(refusal.faults);
                }
            }
        }
        let new = validated.iter().filter(|one| !one.known).count();
        // Parked peers count: their sessions are opened without a further request.
        let capacity = self.capacity();
        let room = (capacity as usize)
            .saturating_sub(self.peers.len())
            .min(self.sessions.room());
        if faults.is_empty() && new > room {
            kind = RefusalKind::Capacity;
            faults.push(format!(
                "{new} new sessions, room for {room} of {capacity}: raise --max-sessions"
            ));
        }
        if faults.is_empty() {
            Ok(validated)
        } else {
            Err(Refusal { kind, faults })
        }
    }

    /// Validates one peer of a request, and completes it by local address, gateway and timers.
    fn validate_peer(&self, spec: &PeerSpec, sources: &Sources) -> Result<Validated, Refusal> {
        let refuse = |kind, text: String| Refusal::new(kind, format!("peer {}: {text}", spec.peer));
        let found = self.interface_for(spec);
        let index = found.map_err(|(kind, text)| refuse(kind, text))?;
        let interface = self.interfaces.at(index);
        let name = interface.name();
        if let Some(reason) = interface.unavailable() {
            return Err(refuse(RefusalKind::Unavailable, format!("{name} {reason}")));
        }
        let local = match spec.local {
            Some(local) => local,
            None => self
                .local_for(interface, spec.peer, sources)
                .map_err(|text| refuse(RefusalKind::NotFound, text))?,
        };
        if !self.interfaces.may_use(interface, local) {
            let text = if self.interfaces.host_addresses().is_held(local) {
                format!("{local} is an address of another VRF than that of {name}")
            } else {
                format!("{local} is not an address of this host")
            };
            return Err(refuse(RefusalKind::NotFound, text));
        }
        if let Some(text) = self.interfaces.no_peer(interface, spec.peer, local) {
            return Err(refuse(RefusalKind::Invalid, text));
        }
        if let Some(text) = spec.via.and_then(|via| self.interfaces.no_gateway(via)) {
            return Err(refuse(RefusalKind::Invalid, text));
        }
        let key = peer_key(name, spec.peer);
        let known = self.peers.get(&key);
        let via = match known.filter(|known| known.local == local.octets()) {
            // A repeated request keeps the gateway that the peer got, although the link's has changed since.
            Some(known) => (known.via != [0; 4]).then(|| known.via.into()),
            None => interface.ends().and_then(|ends| ends.via(local)),
        };
        let spec = &PeerSpec {
            local: Some(local),
            via: spec.via.or(via).filter(|via| *via != spec.peer),
            ..spec.clone()
        };
        let policy = self.wants.policy();
        if let Some(prefix) = policy.excluded(spec.peer) {
            let text = format!("excluded by {prefix} (--exclude, or a line of the --peers file)");
            return Err(refuse(RefusalKind::Conflict, text));
        }
        let peer = spec.peer(&policy.timers(spec.peer, self.options.timers()));
        let (route, dst) = (interface.ifindex(), spec.peer);
        let route = route.map(|ifindex| RouteKey { ifindex, dst });
        let closing = route.is_some_and(|route| self.sessions.owner_of(route).is_some());
        match known {
            Some(known) if known.origin == Origin::Follow => {
                let text = format!(
                    "followed already on {name}: a route of another daemon keeps its session; exclude \
                     the destination (--exclude {}) to have none, override its timers (--override), \
                     or configure it (--peers)",
                    spec.peer
                );
                Err(refuse(RefusalKind::Conflict, text))
            }
            Some(known) if same(known, &peer) => Ok(Validated {
                key,
                peer,
                known: true,
            }),
            Some(known) => {
                let local = Ipv4Addr::from(known.local);
                let text = match known.origin {
                    Origin::Config => format!(
                        "configured on {name} from {local} with other settings: change its line, and \
                         send SIGHUP"
                    ),
                    Origin::Api | Origin::Follow => format!(
                        "connected already on {name} from {local} with other settings: disconnect it \
                         first"
                    ),
                };
                Err(refuse(RefusalKind::Conflict, text))
            }
            None if closing => {
                let text = format!(
                    "its earlier session on {name} is still being closed: see `dz-agent sessions`, \
                     and try again"
                );
                Err(refuse(RefusalKind::Unavailable, text))
            }
            None => Ok(Validated {
                key,
                peer,
                known: false,
            }),
        }
    }
}

/// Returns warnings about a peer's timers: while our clock stands still, answers keep the session Up only
/// if the peer sends often enough.
fn warnings(timers: &Timers) -> Vec<String> {
    let mut warnings = Vec::new();
    if timers.detect_mult < 2 {
        warnings.push(
            "multiplier 1: one late packet takes the session down, a restart of the agent or of \
             the peer's client, too"
                .to_owned(),
        );
    } else if u64::from(timers.desired_min_tx_us) * 11
        >= u64::from(timers.required_min_rx_us) * u64::from(timers.detect_mult) * 10
    {
        warnings.push(
            "we send too rarely for a peer with these settings to keep the session up".to_owned(),
        );
    }
    warnings
}
