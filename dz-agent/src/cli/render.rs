//! Writes the agent's JSON as tables for people.

mod ports;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use dz_common::counters::Counter;

use crate::api::{
    CountersJson, InertJson, InterfaceJson, ParkedJson, RouteJson, SessionJson, SessionsJson,
    StatusJson,
};
use crate::reason::{Held, Parked, PassedOver, Reason, Untouched, text_of};
use crate::settings::MAIN_TABLE;

/// Shows the agent in a few lines, then its interfaces, one per line.
pub(super) fn status(status: &StatusJson) -> String {
    let uptime = Duration::from_secs(status.uptime_seconds);
    let mut text = format!(
        "dz-agent {}, pid {}, running for {}, UDP port {}\n",
        status.version,
        status.pid,
        time(uptime),
        status.port
    );
    let states: Vec<_> = status
        .sessions
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let states = if states.is_empty() {
        "none".to_owned()
    } else {
        states.join(", ")
    };
    let (max, routes) = (status.max_sessions, status.routes_installed);
    let _ = writeln!(
        text,
        "sessions: {states} (at most {max}); routes of ours: {routes}"
    );
    if let Some(error) = &status.check_error {
        let _ = writeln!(
            text,
            "cannot read what the kernel has, and tries again: {error}"
        );
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text += &inert(&status.inert);
    let parked = &status.inert.parked_reasons;
    text += &by_reason::<Parked>("peers without a session", parked);
    let row = |interface: &InterfaceJson| {
        let own = interface.locals.iter().map(ToString::to_string);
        let borrowed = interface.borrowed.iter().map(|local| format!("({local})"));
        let locals: Vec<_> = own.chain(borrowed).collect();
        [
            interface.name.clone(),
            interface
                .ifindex
                .map_or_else(|| "-".to_owned(), |ifindex| ifindex.to_string()),
            interface.attach.clone().unwrap_or_else(|| "-".to_owned()),
            interface.tc.clone().unwrap_or_else(|| "-".to_owned()),
            dash(&locals.join(","), ""),
            interface
                .waiting
                .clone()
                .unwrap_or_else(|| "served".to_owned()),
        ]
    };
    let header = [
        "INTERFACE",
        "INDEX",
        "ATTACHED",
        "TC",
        "ADDRESSES",
        "STATUS",
    ];
    text += &table(header, "lrllll", status.interfaces.iter().map(row));
    text + &ports::notes(status)
}

/// Shows the sessions, one per line, then the peers that have none. Those of peers that have left come last,
/// and only if `all`.
pub(super) fn sessions(sessions: &SessionsJson, all: bool) -> String {
    let mut text = String::new();
    if sessions.sessions.is_empty() && sessions.parked.is_empty() {
        text += "no sessions\n";
    }
    let (left, here): (Vec<_>, Vec<_>) = sessions.sessions.iter().partition(|row| row.left);
    let shown = here.iter().chain(left.iter().filter(|_| all));
    if shown.clone().next().is_some() {
        text += &live(shown.map(|row| session(row)));
    }
    let stuck = |session: &SessionJson| {
        let (local, peer) = (session.local.to_string(), session.peer.to_string());
        let error = session.route_error.clone()?;
        Some([session.interface.clone(), local, peer, error])
    };
    let stuck: Vec<_> = sessions.sessions.iter().filter_map(stuck).collect();
    if !stuck.is_empty() {
        let header = ["INTERFACE", "LOCAL", "PEER", "ROUTE ERROR"];
        text += &table(header, "llll", stuck.into_iter());
    }
    text += &unknown_routes(&sessions.sessions);
    if !sessions.parked.is_empty() {
        let row = |parked: &ParkedJson| {
            let (local, peer) = (parked.local.to_string(), parked.peer.to_string());
            let (origin, reason) = (parked.origin.clone(), parked.reason.clone());
            [parked.interface.clone(), local, peer, origin, reason]
        };
        let header = ["INTERFACE", "LOCAL", "PEER", "ORIGIN", "PARKED"];
        text += &table(header, "lllll", sessions.parked.iter().map(row));
    }
    text += &inert(&sessions.inert);
    text
}

/// Counts the sessions whose route is unknown by the reason, in one line, if there are any.
fn unknown_routes(sessions: &[SessionJson]) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for session in sessions {
        if let RouteJson::Unknown { reason } = &session.route {
            *counts.entry(reason).or_default() += 1;
        }
    }
    counted("routes not known", counts.into_iter())
}

/// Counts routes and peers that are not served as their owner may expect, one line for each kind.
fn inert(inert: &InertJson) -> String {
    let mut text = by_reason::<Untouched>(
        "routes that stay when their session goes down",
        &inert.untouched,
    );
    text += &by_reason::<Held>("sessions held, which do not count as up", &inert.held);
    text += &by_reason::<PassedOver>("followed routes without a session", &inert.passed_over);
    if inert.left > 0 {
        let _ = writeln!(
            text,
            "peers that have left: {} (ten minutes down without a packet; spoken to once a minute; \
             listed last by `sessions --all`)",
            inert.left
        );
    }
    text
}

/// Makes a line of counts by reason; none if there is nothing to count.
fn by_reason<R: Reason>(what: &str, counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter();
    counted(
        what,
        counts.map(|(label, count)| (text_of::<R>(label), *count)),
    )
}

fn counted<'a>(what: &str, counts: impl Iterator<Item = (&'a str, u64)>) -> String {
    let counts: Vec<_> = counts
        .map(|(reason, count)| format!("{count} ({reason})"))
        .collect();
    if counts.is_empty() {
        return String::new();
    }
    format!("{what}: {}\n", counts.join(", "))
}

fn live(rows: impl Iterator<Item = [String; 15]>) -> String {
    let header = [
        "INTERFACE",
        "LOCAL",
        "PEER",
        "ORIGIN",
        "STATE",
        "SINCE",
        "LAST DOWN",
        "ROUTE",
        "MODE",
        "DETOUR",
        "DETECT",
        "RECEIVED",
        "SENT",
        "ANSWERED",
        "LAST RECEIPT",
    ];
    table(header, "lllllrllllrrrrr", rows)
}

fn session(session: &SessionJson) -> [String; 15] {
    let receipt = session.last_receipt_ago_us.map(Duration::from_micros);
    [
        session.interface.clone(),
        session.local.to_string(),
        session.peer.to_string(),
        session.origin.clone().unwrap_or_else(|| "-".to_owned()),
        state(session),
        time(Duration::try_from_secs_f64(session.state_for_seconds).unwrap_or_default()),
        dash(&session.last_down_reason, "none"),
        route(&session.route),
        mode(session),
        session.detour.clone().unwrap_or_else(|| "-".to_owned()),
        time(Duration::from_micros(session.detect_time_us)),
        session.received.to_string(),
        session.sent.to_string(),
        session.answered.to_string(),
        receipt.map_or("never".to_owned(), |ago| format!("{} ago", time(ago))),
    ]
}

/// Shows the counters, one per line, in the order of the map; those that are 0 only if `zeros`.
pub(super) fn counters(counters: &CountersJson, zeros: bool) -> String {
    let rows = counters.blocks.iter().flat_map(|block| {
        let interface = block.interface.clone().unwrap_or_else(|| "-".to_owned());
        let local = block
            .local
            .map_or("-".to_owned(), |local| local.to_string());
        let value = |counter: &Counter| block.counters.get(counter.name()).copied().unwrap_or(0);
        Counter::ALL
            .iter()
            .filter(move |c| zeros || value(c) != 0)
            .map(move |counter| {
                let name = counter.name().to_owned();
                [
                    interface.clone(),
                    local.clone(),
                    name,
                    value(counter).to_string(),
                ]
            })
    });
    let rows = rows.chain(done_to_routes(counters, zeros));
    let text = table(["INTERFACE", "LOCAL", "COUNTER", "VALUE"], "lllr", rows);
    if text.lines().count() > 1 {
        text
    } else {
        "nothing counted yet\n".to_owned()
    }
}

/// Shows the state, and for how long the session is held if it is.
fn state(session: &SessionJson) -> String {
    let state = &session.state;
    match session.held_for_seconds {
        Some(left) => {
            let left = Duration::try_from_secs_f64(left).unwrap_or_default();
            format!("{state} (held for {})", time(left))
        }
        None => state.clone(),
    }
}

/// Shows the effective mode, and the peer's part in it if it has one.
fn mode(session: &SessionJson) -> String {
    match session.passive_end.as_str() {
        "peer" => "passive (peer)".to_owned(),
        "peer_ignored" => "active (peer ignored)".to_owned(),
        _ => session.effective_mode.clone(),
    }
}

/// Makes the rows of the counters that the agent keeps, not the kernel.
fn done_to_routes(
    counters: &CountersJson,
    zeros: bool,
) -> impl Iterator<Item = [String; 4]> + use<'_> {
    let routes = counters.routes.iter().flat_map(|routes| {
        [
            ("route_installs", routes.installs),
            ("route_withdraws", routes.withdraws),
            ("route_install_failures", routes.install_failures),
            ("route_uninstall_failures", routes.uninstall_failures),
            ("route_repairs", routes.repairs),
            ("session_holds", routes.holds),
        ]
        .map(|(name, value)| {
            (
                routes.interface.clone(),
                routes.local.to_string(),
                name,
                value,
            )
        })
    });
    let agent = &counters.agent;
    let missed = [
        ("agent_events_lost", agent.events_lost),
        ("agent_notification_overruns", agent.notification_overruns),
        ("agent_checks_failed", agent.checks_failed),
        ("agent_log_lines_dropped", agent.log_lines_dropped),
    ]
    .map(|(name, value)| ("-".to_owned(), "-".to_owned(), name, value));
    routes
        .chain(missed)
        .filter(move |(_, _, _, value)| zeros || *value != 0)
        .map(|(interface, local, name, value)| {
            [interface, local, name.to_owned(), value.to_string()]
        })
}

fn route(route: &RouteJson) -> String {
    match route {
        RouteJson::Present { via: Some(via), .. } => format!("present via {via}"),
        RouteJson::Present { via: None, .. } => "present".to_owned(),
        RouteJson::Followed {
            name,
            table,
            metric,
            ..
        } => {
            let mut text = name.clone();
            if *table != MAIN_TABLE {
                let _ = write!(text, " table {table}");
            }
            if *metric != 0 {
                let _ = write!(text, " metric {metric}");
            }
            text
        }
        RouteJson::Absent => "absent".to_owned(),
        RouteJson::Foreign { protocol } => format!("foreign (proto {protocol})"),
        RouteJson::Unknown { .. } => "unknown".to_owned(),
    }
}

fn dash(text: &str, nothing: &str) -> String {
    if text == nothing {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// Shows a time in two units at most, which a reader takes in at a glance.
fn time(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        1..MINUTE => format!("{}.{}s", time.as_secs(), time.subsec_millis() / 100),
        s @ MINUTE..HOUR => format!("{}m{:02}s", s / MINUTE, s % MINUTE),
        s @ HOUR..DAY => format!("{}h{:02}m", s / HOUR, s % HOUR / MINUTE),
        s => format!("{}d{:02}h", s / DAY, s % DAY / HOUR),
    }
}

/// Aligns columns: `align` has `l` or `r` for each.
fn table<const N: usize>(
    header: [&str; N],
    align: &str,
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), align) in row.iter().zip(widths).zip(align.chars()) {
            // Writing to a string cannot fail.
            let _ = match align {
                'r' => write!(line, "{cell:>width$}  "),
                _ => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
