//! A snapshot of the kernel's and the agent's state at one moment, which API and metrics show.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use dz_common::counters::Counters;
use dz_common::map::{Origin, SessionEntry};

use crate::settings::MetricsListen;

pub use crate::reason::{Held, Parked, PassedOver, Untouched};

/// Reads snapshots.
pub trait Inspect: Send + Sync + 'static {
    /// Reads the present state.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    fn snapshot(&self) -> impl Future<Output = anyhow::Result<Snapshot>> + Send;
}

/// The state of interfaces, sessions, peers, routes, counters and agent at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken, ns of `CLOCK_MONOTONIC`.
    pub taken_at_ns: u64,
    /// The interfaces that the agent serves or waits for.
    pub interfaces: Vec<InterfaceView>,
    /// Every session, in any order.
    pub sessions: Vec<SessionView>,
    /// Every peer without a session, in any order.
    pub parked: Vec<ParkedView>,
    /// Every block of `dz_counters` in use.
    pub blocks: Vec<BlockView>,
    /// Changes made to routes, and how many there are, by interface and local address.
    pub routes: Vec<RouteTotals>,
    /// Routes that meet the conditions of `--follow` and make no peer, by the reason.
    pub passed_over: Vec<(PassedOver, u64)>,
    /// The agent itself.
    pub agent: AgentView,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index; none while it does not exist.
    pub ifindex: Option<u32>,
    /// How the programs are attached: `tc`, `xdp` or `xdp-generic`; none while they are not.
    pub attach: Option<String>,
    /// By what TC runs the gate, and the other program if it is TC's: `tcx` or `clsact`.
    pub tc: Option<String>,
    /// Why they are attached like that, for people.
    pub attach_reason: Option<String>,
    /// Where the programs are that it is served by; none while they are not attached.
    pub programs: Vec<ProgramView>,
    /// Whether its liveness port is ours; none while the interface does not exist.
    pub port_guard: Option<PortGuardView>,
    /// Its IPv4 addresses.
    pub locals: Vec<Ipv4Addr>,
    /// Addresses that this host holds elsewhere, and that peers of this interface use.
    pub borrowed: Vec<Ipv4Addr>,
    /// Why it is not served at present, for people.
    pub waiting: Option<String>,
    /// Why no peer on it has a session at present.
    pub parks: Option<Parked>,
}

/// One of our programs on an interface, as the kernel had it at the last full check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramView {
    /// `ingress` or `gate`.
    pub hook: &'static str,
    /// How many programs of others run before it.
    pub before: usize,
    /// Why it is not there, for people.
    pub missing: Option<String>,
    /// How often it was put back since the start.
    pub mended: u64,
}

/// The liveness port of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortGuardView {
    /// It is ours.
    Held,
    /// It is left to others (`--port-guard off`, `--unknown pass`).
    Off,
    /// It is not ours at present, and taken when it can be; why not, for people.
    Missing(String),
}

/// Whether metrics are served beside the API, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsView {
    /// They are not (`--metrics-listen off`).
    Off,
    /// They are served at this address or socket.
    At(MetricsListen),
    /// They are not at present, and that is tried again; why, for people.
    Missing(String),
}

/// One session.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its interface: one text for all of its sessions.
    pub interface: Arc<str>,
    /// The map entry. Its key has the addresses.
    pub entry: SessionEntry,
    /// The source that wants it; none if no source does, and it is being given up.
    pub origin: Option<Origin>,
    /// Gateway that its route is to have.
    pub via: Option<Ipv4Addr>,
    /// The peer's route as the kernel has it.
    pub route: RouteState,
    /// Why the route is not what it should be although we have tried, for people.
    pub route_error: Option<String>,
    /// The interface that packets for the peer take while it is Down, if they are rerouted.
    pub detour: Detour,
    /// Whether a peer's passive bit means nothing to us.
    pub ignore_peer_passive: bool,
    /// Whether the peer has left: it is followed, and long Down without a packet.
    pub left: bool,
    /// Why it is held, and until when, ns of `CLOCK_MONOTONIC`; none if it is not.
    pub held: Option<(Held, u64)>,
}

/// The way around a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detour {
    /// By this interface: one text for all sessions.
    Interface(Arc<str>),
    /// There is no route by an interface without a gate, or none has been looked up yet.
    None,
}

impl SessionView {
    /// Returns our address.
    pub const fn local(&self) -> Ipv4Addr {
        addr(self.entry.key.local)
    }

    /// Returns the peer's address.
    pub const fn peer(&self) -> Ipv4Addr {
        addr(self.entry.key.peer)
    }

    /// Returns why the route stays when the session goes down, if it does.
    pub fn untouched(&self) -> Option<Untouched> {
        let session = &self.entry.session;
        let (own, theirs) = (session.timers.mode, session.peer_mode);
        let foreign = matches!(self.route, RouteState::Foreign { .. });
        Untouched::of(own, theirs, self.ignore_peer_passive, self.origin, foreign)
    }
}

const fn addr([a, b, c, d]: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// A peer that has no session at present: nothing is sent to it and no route of ours leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedView {
    /// Its interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// The peer's address.
    pub peer: Ipv4Addr,
    /// The source that wants it.
    pub origin: Origin,
    /// Why it has no session.
    pub why: Parked,
    /// The same reason for people, with names and addresses.
    pub reason: String,
}

/// The route to a peer, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// The table has it, with our protocol number.
    Present {
        /// Its gateway.
        via: Option<Ipv4Addr>,
        /// Its preferred source.
        src: Option<Ipv4Addr>,
    },
    /// The peer is a followed one, and this is its route.
    Followed {
        /// Its `rtm_protocol`.
        protocol: u8,
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
        /// Why, for people: one text for all sessions that it holds for.
        reason: Arc<str>,
    },
}

/// Counts of followed peers that came, changed and went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowChanges {
    /// Routes that became peers.
    pub appeared: u64,
    /// Peers whose route changed its source or gateway, or whose timers changed.
    pub changed: u64,
    /// Peers given up with their route.
    pub disappeared: u64,
}

impl FollowChanges {
    pub(crate) const fn add(&mut self, more: &Self) {
        self.appeared += more.appeared;
        self.changed += more.changed;
        self.disappeared += more.disappeared;
    }
}

/// Returns the name of an origin in JSON and metrics.
pub const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Api => "api",
        Origin::Config => "config",
        Origin::Follow => "follow",
    }
}

/// One block of counters, summed over CPUs.
#[derive(Clone, Debug)]
pub struct BlockView {
    /// The interface; none in block 0, whose counters belong to none.
    pub interface: Option<String>,
    /// Our address; none in block 0.
    pub local: Option<Ipv4Addr>,
    /// The counters.
    pub counters: Counters,
}

/// Counts of the agent's changes of the routes of one interface and local address since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTotals {
    /// The interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// Acknowledged installs.
    pub installs: u64,
    /// Acknowledged withdrawals.
    pub withdraws: u64,
    /// Installs that the kernel refused.
    pub install_failures: u64,
    /// Withdrawals that the kernel refused.
    pub uninstall_failures: u64,
    /// Routes put back after somebody else had deleted or changed them.
    pub repairs: u64,
    /// Sessions now whose route cannot be ours, since somebody else has one there.
    pub conflicts: u64,
    /// How often damping has begun to hold a session.
    pub holds: u64,
    /// Routes of ours in the kernel's table now.
    pub installed: u64,
}

/// The agent itself.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// Age of the heartbeat in `dz_heartbeat`, ns.
    pub heartbeat_age_ns: u64,
    /// Events that did not reach us, by the kernel's count of those emitted.
    pub events_lost: u64,
    /// How often the kernel dropped netlink notifications that we were to read.
    pub notification_overruns: u64,
    /// Full checks that could not read everything.
    pub checks_failed: u64,
    /// Lines of the log that were dropped because nobody has read standard error.
    pub log_lines_dropped: u64,
    /// For how long the last full check kept everything else waiting, ns.
    pub full_check_ns: u64,
    /// Followed peers that came, changed and went since the start.
    pub follow_changes: FollowChanges,
    /// The error of the last full check, if it could not read everything, for people.
    pub check_error: Option<String>,
    /// Settings of this host that will make something go wrong, for people.
    pub warnings: Vec<String>,
    /// When this process started.
    pub started_at: SystemTime,
    /// Whether metrics are served over TCP.
    pub metrics: MetricsView,
    /// Our process.
    pub pid: u32,
    /// UDP port served.
    pub port: u16,
    /// Most sessions.
    pub max_sessions: u32,
}

/// Version of the agent, as in the packets it sends.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
