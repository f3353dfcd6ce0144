//! Counters as JSON. Names are stable; units are in the names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dz_common::counters::Counter;
use serde::{Deserialize, Serialize};

use crate::view::{AgentView, BlockView, RouteTotals, Snapshot};

/// Reply to `GET /v1/counters`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CountersJson {
    /// By interface and local address.
    pub blocks: Vec<BlockJson>,
    /// Counts of the agent's changes of routes since it started, by interface and local address.
    #[serde(default)]
    pub routes: Vec<RouteTotalsJson>,
    /// Events and notifications that the agent missed since it started.
    #[serde(default)]
    pub agent: MissedJson,
}

/// Counts of changes of the routes of one interface and local address.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RouteTotalsJson {
    /// The interface.
    pub interface: String,
    /// Our address.
    pub local: Ipv4Addr,
    /// Routes of ours in the kernel's table now.
    pub installed: u64,
    /// Sessions now whose route cannot be ours, since somebody else has one there.
    pub conflicts: u64,
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
    /// How often damping has begun to hold a session.
    #[serde(default)]
    pub holds: u64,
}

impl From<&RouteTotals> for RouteTotalsJson {
    fn from(totals: &RouteTotals) -> Self {
        Self {
            interface: totals.interface.clone(),
            local: totals.local,
            installed: totals.installed,
            conflicts: totals.conflicts,
            installs: totals.installs,
            withdraws: totals.withdraws,
            install_failures: totals.install_failures,
            uninstall_failures: totals.uninstall_failures,
            repairs: totals.repairs,
            holds: totals.holds,
        }
    }
}

/// Events and notifications that the agent missed; it has read everything again each time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct MissedJson {
    /// Events of the kernel programs that did not reach it.
    pub events_lost: u64,
    /// How often the kernel dropped netlink notifications.
    pub notification_overruns: u64,
    /// Full checks that could not read everything.
    pub checks_failed: u64,
    /// Lines of the log that were dropped because nobody has read standard error.
    #[serde(default)]
    pub log_lines_dropped: u64,
}

impl From<&AgentView> for MissedJson {
    fn from(agent: &AgentView) -> Self {
        Self {
            events_lost: agent.events_lost,
            notification_overruns: agent.notification_overruns,
            checks_failed: agent.checks_failed,
            log_lines_dropped: agent.log_lines_dropped,
        }
    }
}

/// The counters of one interface and local address.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct BlockJson {
    /// The interface; none for what belongs to no address of ours.
    pub interface: Option<String>,
    /// Our address; none for what belongs to no address of ours.
    pub local: Option<Ipv4Addr>,
    /// The counters by their names.
    pub counters: BTreeMap<String, u64>,
}

impl From<&BlockView> for BlockJson {
    fn from(block: &BlockView) -> Self {
        let of = |counter: &Counter| (counter.name().to_owned(), block.counters.get(*counter));
        Self {
            interface: block.interface.clone(),
            local: block.local,
            counters: Counter::ALL.iter().map(of).collect(),
        }
    }
}

impl From<&Snapshot> for CountersJson {
    fn from(snapshot: &Snapshot) -> Self {
        let mut blocks: Vec<BlockJson> = snapshot.blocks.iter().map(BlockJson::from).collect();
        blocks.sort_by(|a, b| (&a.interface, a.local).cmp(&(&b.interface, b.local)));
        let mut routes: Vec<_> = snapshot.routes.iter().map(RouteTotalsJson::from).collect();
        routes.sort_by(|a, b| (&a.interface, a.local).cmp(&(&b.interface, b.local)));
        Self {
            blocks,
            routes,
            agent: MissedJson::from(&snapshot.agent),
        }
    }
}
