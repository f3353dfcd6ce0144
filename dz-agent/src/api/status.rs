//! `GET /v1/status`, as JSON. Names are stable; units are in the names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use dz_common::packet::State;
use dz_common::session::NS_PER_US;
use serde::{Deserialize, Serialize};

use super::inert::InertJson;
use crate::view::{InterfaceView, MetricsView, PortGuardView, ProgramView, Snapshot, VERSION};

/// Reply to `GET /v1/status`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StatusJson {
    /// The agent's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// Time since the agent started.
    pub uptime_seconds: u64,
    /// UDP port served.
    pub port: u16,
    /// Most sessions.
    pub max_sessions: u32,
    /// Sessions by state, states without one included.
    pub sessions: BTreeMap<String, u64>,
    /// Routes of ours in the kernel's table.
    pub routes_installed: u64,
    /// Time since the agent's loop last said that it is alive.
    pub heartbeat_age_us: u64,
    /// Events of the kernel programs that did not reach the agent.
    pub events_lost: u64,
    /// The error of the agent's last full check, if it could not read everything; it tries again.
    #[serde(default)]
    pub check_error: Option<String>,
    /// Where metrics are served beside the API, if they are at present: `127.0.0.1:44881`, or `unix:` and a path.
    #[serde(default)]
    pub metrics: Option<String>,
    /// Why metrics are not served there although they are wanted; that is tried again.
    #[serde(default)]
    pub metrics_error: Option<String>,
    /// Settings of this host that will make something go wrong, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How many peers and routes are not served as their owner may expect, and why.
    #[serde(flatten)]
    pub inert: InertJson,
    /// The interfaces served or waited for.
    pub interfaces: Vec<InterfaceJson>,
}

/// One interface.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InterfaceJson {
    /// Its name.
    pub name: String,
    /// Its index; none while it does not exist.
    pub ifindex: Option<u32>,
    /// How the programs are attached: `tc`, `xdp` or `xdp-generic`; none while they are not.
    pub attach: Option<String>,
    /// By what TC runs the gate, and the other program if it is TC's: `tcx` (Linux 6.6 and newer) or
    /// `clsact`; none while they are not.
    #[serde(default)]
    pub tc: Option<String>,
    /// Why they are attached like that.
    #[serde(default)]
    pub attach_reason: Option<String>,
    /// The program at ingress and the gate, as the kernel had them at the last full check; none while they are not attached.
    #[serde(default)]
    pub programs: Vec<ProgramJson>,
    /// The state of the liveness port: `held`, `off`, or `missing` while somebody else has it, which
    /// changes nothing in what the interface does; none while it does not exist.
    #[serde(default)]
    pub port_guard: Option<String>,
    /// Why the port is missing, and which process has it.
    #[serde(default)]
    pub port_guard_error: Option<String>,
    /// Its addresses.
    pub locals: Vec<Ipv4Addr>,
    /// Addresses that this host holds elsewhere, and that peers of this interface use.
    #[serde(default)]
    pub borrowed: Vec<Ipv4Addr>,
    /// Why it is not served at present.
    pub waiting: Option<String>,
}

/// One of our programs on an interface.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ProgramJson {
    /// `ingress` or `gate`.
    pub hook: String,
    /// Whether it is there.
    pub in_place: bool,
    /// How many programs of others run before it.
    pub before: usize,
    /// Why it is not there.
    #[serde(default)]
    pub error: Option<String>,
    /// How often it was put back since the agent started.
    pub mended: u64,
}

impl From<ProgramView> for ProgramJson {
    fn from(view: ProgramView) -> Self {
        Self {
            hook: view.hook.to_owned(),
            in_place: view.missing.is_none(),
            before: view.before,
            error: view.missing,
            mended: view.mended,
        }
    }
}

impl From<&InterfaceView> for InterfaceJson {
    fn from(view: &InterfaceView) -> Self {
        let InterfaceView {
            name,
            ifindex,
            attach,
            tc,
            attach_reason,
            programs,
            port_guard,
            locals,
            borrowed,
            waiting,
            parks: _,
        } = view.clone();
        let (port_guard, port_guard_error) = match port_guard {
            None => (None, None),
            Some(PortGuardView::Held) => (Some("held"), None),
            Some(PortGuardView::Off) => (Some("off"), None),
            Some(PortGuardView::Missing(why)) => (Some("missing"), Some(why)),
        };
        Self {
            name,
            ifindex,
            attach,
            tc,
            attach_reason,
            programs: programs.into_iter().map(ProgramJson::from).collect(),
            port_guard: port_guard.map(str::to_owned),
            port_guard_error,
            locals,
            borrowed,
            waiting,
        }
    }
}

impl From<&Snapshot> for StatusJson {
    fn from(snapshot: &Snapshot) -> Self {
        let agent = &snapshot.agent;
        let count = |state: State| {
            snapshot
                .sessions
                .iter()
                .filter(|view| view.entry.session.state == state)
                .count()
        };
        let by_state = |state: State| (state.name().to_owned(), count(state) as u64);
        let uptime = SystemTime::now()
            .duration_since(agent.started_at)
            .unwrap_or_default();
        let (metrics, metrics_error) = match &agent.metrics {
            MetricsView::Off => (None, None),
            MetricsView::At(listen) => (Some(listen.to_string()), None),
            MetricsView::Missing(why) => (None, Some(why.clone())),
        };
        Self {
            version: VERSION.to_owned(),
            pid: agent.pid,
            uptime_seconds: uptime.as_secs(),
            port: agent.port,
            max_sessions: agent.max_sessions,
            sessions: State::ALL.map(by_state).into(),
            routes_installed: snapshot.routes.iter().map(|route| route.installed).sum(),
            heartbeat_age_us: agent.heartbeat_age_ns / NS_PER_US,
            events_lost: agent.events_lost,
            check_error: agent.check_error.clone(),
            metrics,
            metrics_error,
            warnings: agent.warnings.clone(),
            inert: InertJson::from(snapshot),
            interfaces: snapshot
                .interfaces
                .iter()
                .map(InterfaceJson::from)
                .collect(),
        }
    }
}
