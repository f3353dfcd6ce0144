//! Sessions and parked peers as JSON. Names are stable; units are in the names.

use std::net::Ipv4Addr;

use dz_common::gate::is_passive;
use dz_common::session::{Mode, NS_PER_US};
use serde::{Deserialize, Serialize};

use super::inert::InertJson;
use crate::reason::Reason;
use crate::settings::protocol_name;
use crate::view::{Detour, ParkedView, RouteState, SessionView, Snapshot, origin_name};

/// Reply to `GET /v1/sessions`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionsJson {
    /// By interface, local address, peer.
    pub sessions: Vec<SessionJson>,
    /// Peers without a session at present, by interface, local address, peer.
    pub parked: Vec<ParkedJson>,
    /// Counts of peers and routes that are not served as their owner may expect, by the reason.
    #[serde(flatten)]
    pub inert: InertJson,
}

/// A peer without a session: nothing is sent to it, and no route of ours leads there.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ParkedJson {
    /// Its interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// The source that wants it: `api`, `config` or `follow`.
    #[serde(default)]
    pub origin: String,
    /// Why it has no session, for people.
    pub reason: String,
    /// The same reason as a label: [`crate::reason::Parked`].
    #[serde(default)]
    pub reason_label: String,
}

impl From<&ParkedView> for ParkedJson {
    fn from(parked: &ParkedView) -> Self {
        Self {
            interface: parked.interface.clone(),
            local: parked.local,
            peer: parked.peer,
            origin: origin_name(parked.origin).to_owned(),
            reason: parked.reason.clone(),
            reason_label: parked.why.label().to_owned(),
        }
    }
}

/// One session, as the kernel has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionJson {
    /// Its interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// The source that wants it: `api`, `config` or `follow`; none if no source does, and it is being
    /// given up.
    #[serde(default)]
    pub origin: Option<String>,
    /// `admin_down`, `down`, `init` or `up`.
    pub state: String,
    /// Time in this state.
    pub state_for_seconds: f64,
    /// Why it last went Down, if it ever did: `timeout`, `remote_admin`, `local_admin`,
    /// `remote_down` or `none`.
    pub last_down_reason: String,
    /// State changes since the session was made.
    pub transitions: u32,
    /// How often it came Up.
    pub ups: u32,
    /// The peer's route as the kernel has it.
    pub route: RouteJson,
    /// Why the route is not what it should be although the agent has tried.
    #[serde(default)]
    pub route_error: Option<String>,
    /// Gateway that the route is to have.
    pub via: Option<Ipv4Addr>,
    /// Ours: `active` or `passive`.
    pub mode: String,
    /// The peer's mode, by its own word: `active`, `passive` or `unknown`.
    pub peer_mode: String,
    /// Whether route and traffic follow the session: only if neither end is passive.
    pub effective_mode: String,
    /// Which end is passive: `own` or `peer` if that end is (`own` if both are), `peer_ignored` if the peer
    /// is and that means nothing to us, `neither` otherwise.
    pub passive_end: String,
    /// Why the route stays when the session goes down, if it does: [`crate::reason::Untouched`].
    #[serde(default)]
    pub untouched: Option<String>,
    /// Whether the peer has left: it is followed, and long Down without a packet.
    #[serde(default)]
    pub left: bool,
    /// Why it is held, that is, does not count as Up while it is Up: [`crate::reason::Held`]; none if it is not.
    #[serde(default)]
    pub held: Option<String>,
    /// For how long it is still held.
    #[serde(default)]
    pub held_for_seconds: Option<f64>,
    /// The interface that packets for the peer take while it is Down, if they are rerouted; none if
    /// there is none with a route.
    pub detour: Option<String>,
    /// The peer's software; none before it was heard.
    pub peer_version: Option<String>,
    /// Silence after which the peer is Down.
    pub detect_time_us: u64,
    /// Our multiplier.
    pub detect_mult: u8,
    /// Fewest hops that the peer's packets may have left; 0: any.
    pub min_ttl: u8,
    /// Negotiated transmit interval.
    pub tx_interval_us: u32,
    /// Negotiated receive interval.
    pub rx_interval_us: u32,
    /// Packets of the peer that were valid.
    pub received: u64,
    /// Answers sent from the receive path.
    pub answered: u64,
    /// Packets sent on our own clock.
    pub originated: u64,
    /// Answers, and packets sent on our own clock.
    pub sent: u64,
    /// Since the last packet that counted as a sign of life; none if there was none.
    pub last_receipt_ago_us: Option<u64>,
    /// Since the last packet of the peer, whatever became of it; none if there was none.
    pub last_seen_ago_us: Option<u64>,
    /// Since our last packet; none if there was none.
    pub last_sent_ago_us: Option<u64>,
    /// `bfd.LocalDiscr`.
    pub local_discriminator: u32,
    /// `bfd.RemoteDiscr`, 0 until learned.
    pub peer_discriminator: u32,
}

/// A route as the kernel has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RouteJson {
    /// The table has it, and it is ours.
    Present {
        /// Its gateway.
        via: Option<Ipv4Addr>,
        /// Its preferred source.
        src: Option<Ipv4Addr>,
    },
    /// The peer is a followed one: its route, of another daemon.
    Followed {
        /// Its `rtm_protocol`.
        protocol: u8,
        /// iproute2's name for that, or the number.
        name: String,
        /// Its table.
        table: u32,
        /// Its metric.
        metric: u32,
    },
    /// The table has no host route to the peer.
    Absent,
    /// The table has a route of somebody else to the peer.
    Foreign {
        /// Its `rtm_protocol`.
        protocol: u8,
    },
    /// It is not known which route there is.
    Unknown {
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
}

impl From<&RouteState> for RouteJson {
    fn from(route: &RouteState) -> Self {
        match *route {
            RouteState::Present { via, src } => Self::Present { via, src },
            RouteState::Followed {
                protocol,
                table,
                metric,
            } => Self::Followed {
                protocol,
                name: protocol_name(protocol),
                table,
                metric,
            },
            RouteState::Absent => Self::Absent,
            RouteState::Foreign { protocol } => Self::Foreign { protocol },
            RouteState::Unknown { ref reason } => Self::Unknown {
                reason: reason.to_string(),
            },
        }
    }
}

impl SessionJson {
    fn new(view: &SessionView, now_ns: u64) -> Self {
        let entry = &view.entry;
        let session = &entry.session;
        let (own, theirs) = (session.timers.mode, session.peer_mode);
        let passive = is_passive(own, theirs, view.ignore_peer_passive);
        let effective = if passive { Mode::Passive } else { Mode::Active };
        let passive_end = match (own, theirs) {
            (Mode::Passive, _) => "own",
            (_, Mode::Passive) if passive => "peer",
            (_, Mode::Passive) => "peer_ignored",
            _ => "neither",
        };
        let heard = session.peer_mode != Mode::Unknown;
        let ago_us = |at_ns: u64| (at_ns != 0).then(|| now_ns.saturating_sub(at_ns) / NS_PER_US);
        let state_for = now_ns.saturating_sub(session.since_ns);
        Self {
            interface: view.interface.to_string(),
            local: view.local(),
            peer: view.peer(),
            origin: view.origin.map(origin_name).map(str::to_owned),
            state: session.state.name().to_owned(),
            state_for_seconds: std::time::Duration::from_nanos(state_for).as_secs_f64(),
            last_down_reason: session.last_down_reason.name().to_owned(),
            transitions: session.transitions,
            ups: session.ups,
            route: RouteJson::from(&view.route),
            route_error: view.route_error.clone(),
            via: view.via,
            mode: session.timers.mode.name().to_owned(),
            peer_mode: session.peer_mode.name().to_owned(),
            effective_mode: effective.name().to_owned(),
            passive_end: passive_end.to_owned(),
            untouched: view.untouched().map(|why| why.label().to_owned()),
            left: view.left,
            held: view.held.map(|(why, _)| why.label().to_owned()),
            held_for_seconds: view.held.map(|(_, until_ns)| {
                let left_ns = until_ns.saturating_sub(now_ns);
                std::time::Duration::from_nanos(left_ns).as_secs_f64()
            }),
            detour: match &view.detour {
                Detour::Interface(name) => Some(name.to_string()),
                Detour::None => None,
            },
            peer_version: heard.then(|| session.peer_version.to_string()),
            detect_time_us: session.detect_time_ns() / NS_PER_US,
            detect_mult: session.timers.detect_mult,
            min_ttl: session.timers.min_ttl,
            tx_interval_us: session.tx_interval_us(),
            rx_interval_us: session.rx_interval_us(),
            received: entry.received,
            answered: entry.answered,
            originated: entry.originated,
            sent: entry.answered + entry.originated,
            last_receipt_ago_us: ago_us(session.last_rx_ns),
            last_seen_ago_us: ago_us(entry.last_seen_ns),
            last_sent_ago_us: ago_us(session.last_tx_ns),
            local_discriminator: session.local_discr,
            peer_discriminator: session.peer_discr,
        }
    }
}

impl From<&Snapshot> for SessionsJson {
    fn from(snapshot: &Snapshot) -> Self {
        let session = |view| SessionJson::new(view, snapshot.taken_at_ns);
        let mut sessions: Vec<_> = snapshot.sessions.iter().map(session).collect();
        sessions
            .sort_by(|a, b| (&a.interface, a.local, a.peer).cmp(&(&b.interface, b.local, b.peer)));
        let mut parked: Vec<_> = snapshot.parked.iter().map(ParkedJson::from).collect();
        parked.sort();
        Self {
            sessions,
            parked,
            inert: InertJson::from(snapshot),
        }
    }
}
