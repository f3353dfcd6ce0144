use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::fixture::{self, Fixed, LOCAL};
use crate::view::Snapshot;

const SERVICE: &str = "iface=\"doublezero0\",local_ip=\"10.0.0.1\"";

fn exporter(snapshot: Snapshot) -> Exporter<Fixed> {
    let recorded = Recorded::default();
    recorded
        .convergence
        .observe_up("doublezero0", LOCAL, Duration::from_millis(3));
    recorded
        .convergence
        .observe_down("doublezero0", LOCAL, Duration::from_millis(2));
    Exporter::new(Arc::new(Fixed(snapshot)), recorded, true)
}

fn scrape(exporter: &Exporter<Fixed>, format: Format) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let text = runtime.block_on(exporter.scrape(format)).unwrap();
    String::from_utf8(text.into()).unwrap()
}

/// The value of a series, which must be there exactly once.
fn value(text: &str, series: &str) -> f64 {
    let mut rows = text
        .lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = rows
        .next()
        .unwrap_or_else(|| panic!("no {series} in\n{text}"));
    assert_eq!(rows.next(), None, "{series} twice");
    value.parse().unwrap()
}

#[test]
fn values_are_those_of_the_snapshot() {
    let text = scrape(&exporter(fixture::snapshot()), Format::Prometheus);
    let of = |name: &str, labels: &str| {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!(",{labels}")
        };
        value(
            &text,
            &format!("doublezero_liveness_{name}{{{SERVICE}{labels}}}"),
        )
    };
    assert_eq!(of("sessions", "state=\"up\""), 1.0);
    assert_eq!(of("sessions", "state=\"down\""), 2.0);
    assert_eq!(of("sessions", "state=\"admin_down\""), 0.0);
    let up_down = "state_from=\"up\",state_to=\"down\"";
    assert_eq!(
        of(
            "session_transitions_total",
            &format!("{up_down},reason=\"handle_rx\"")
        ),
        2.0
    );
    let timeout = format!("{up_down},reason=\"detect_timeout\"");
    assert_eq!(of("session_transitions_total", &timeout), 1.0);
    assert_eq!(
        of("downs_total", "state_from=\"up\",reason=\"remote_admin\""),
        1.0
    );
    assert_eq!(of("control_packets_tx_total", ""), 995.0);
    let version = "peer_client_version=\"0.7.1-other\"";
    assert_eq!(of("control_packets_rx_total", version), 1000.0);
    assert_eq!(
        of("control_packets_rx_invalid_total", "reason=\"short\""),
        3.0
    );
    assert_eq!(of("unknown_peer_packets_total", ""), 4.0);
    assert_eq!(of("suppressed_total", "reason=\"paced\""), 90.0);
    assert_eq!(of("exits_total", "exit=\"drop_wrong_discriminator\""), 2.0);
    assert_eq!(of("tallies_total", "tally=\"event_emitted\""), 7.0);
    assert_eq!(of("routes_installed", ""), 1.0);
    assert_eq!(of("route_installs_total", ""), 2.0);
    assert_eq!(of("convergence_to_up_seconds_count", ""), 1.0);
    let bucket = "doublezero_liveness_convergence_to_up_seconds_bucket";
    for (bound, expected) in [("0.0025", 0.0), ("0.005", 1.0), ("+Inf", 1.0)] {
        assert_eq!(
            value(&text, &format!("{bucket}{{le=\"{bound}\",{SERVICE}}}")),
            expected
        );
    }
    assert_eq!(
        of("peer_sessions", "state=\"up\",peer_ip=\"10.0.0.2\""),
        1.0
    );
    assert_eq!(
        of("peer_session_detect_time_seconds", "peer_ip=\"10.0.0.2\""),
        3.0
    );
    let other = |series: &str| value(&text, &format!("doublezero_liveness_{series}"));
    for origin in ["api", "config", "follow"] {
        assert_eq!(other(&format!("peers{{origin=\"{origin}\"}}")), 1.0);
    }
    assert_eq!(
        other("followed_routes_passed_over{reason=\"no_room\"}"),
        2.0
    );
    assert_eq!(other("follow_changes_total{change=\"appeared\"}"), 5.0);
    let common = "doublezero_liveness_exits_total{iface=\"\",local_ip=\"\",exit=\"pass_not_udp\"}";
    assert_eq!(value(&text, common), 11.0);
    assert_eq!(value(&text, "doublezero_liveness_installed_map_size"), 1.0);
    assert_eq!(
        value(&text, "doublezero_liveness_heartbeat_age_seconds"),
        0.5
    );
}

#[test]
fn what_is_not_served_is_counted_by_reason() {
    let mut snapshot = fixture::snapshot();
    snapshot.parked.push(fixture::parked());
    snapshot.sessions[2].left = true;
    let text = scrape(&exporter(snapshot), Format::Prometheus);
    let of = |series: &str| value(&text, &format!("doublezero_liveness_{series}"));
    for (reason, count) in [
        ("own_passive", 0.0),
        ("peer_passive", 1.0),
        ("followed", 1.0),
        ("foreign", 1.0),
    ] {
        let series = format!("untouched_routes{{reason=\"{reason}\"}}");
        assert_eq!(of(&series), count, "{reason}");
    }
    assert_eq!(of("parked_peers{reason=\"interface_down\"}"), 1.0);
    assert_eq!(of("parked_peers{reason=\"address_missing\"}"), 0.0);
    assert_eq!(of("left_peers"), 1.0);
    assert_eq!(of("followed_routes_passed_over{reason=\"excluded\"}"), 0.0);
}

#[test]
fn every_counter_is_shown() {
    let mut snapshot = fixture::snapshot();
    let mut counters = dz_common::counters::Counters::default();
    for (i, word) in zerocopy::IntoBytes::as_mut_bytes(&mut counters)
        .chunks_mut(8)
        .enumerate()
    {
        word.copy_from_slice(&(1_000 + i as u64).to_ne_bytes());
    }
    snapshot.blocks[1].counters = counters;
    let text = scrape(&exporter(snapshot), Format::Prometheus);
    let sum = |prefix: &str| -> f64 {
        let rows = text
            .lines()
            .filter(|line| line.starts_with(prefix) && line.contains(SERVICE));
        rows.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    };
    use dz_common::counters::{Counter, Kind};
    for (kind, prefix) in [
        (Kind::Exit, "doublezero_liveness_exits_total{"),
        (Kind::Tally, "doublezero_liveness_tallies_total{"),
        (
            Kind::Transition,
            "doublezero_liveness_session_transitions_total{",
        ),
    ] {
        let of_kind = Counter::ALL.iter().filter(|counter| counter.kind() == kind);
        let expected: u64 = of_kind.map(|counter| counters.get(*counter)).sum();
        assert_eq!(sum(prefix), expected as f64, "{prefix}");
    }
}

#[test]
fn two_blocks_of_one_address_are_one_series() {
    let mut snapshot = fixture::snapshot();
    snapshot.blocks.push(snapshot.blocks[1].clone());
    snapshot.routes.push(snapshot.routes[0].clone());
    snapshot.sessions.push(snapshot.sessions[0].clone());
    let text = scrape(&exporter(snapshot), Format::Prometheus);
    let series = format!("doublezero_liveness_control_packets_tx_total{{{SERVICE}}}");
    assert_eq!(value(&text, &series), 1990.0);
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line}");
    }
}

#[test]
fn received_packets_stay_counted() {
    let recorded = Recorded::default();
    let scrape_of = |snapshot: &Snapshot| {
        let exporter = Exporter::new(Arc::new(Fixed(snapshot.clone())), recorded.clone(), false);
        scrape(&exporter, Format::Prometheus)
    };
    let total = |text: &str, version: &str| {
        let name = "doublezero_liveness_control_packets_rx_total";
        value(
            text,
            &format!("{name}{{{SERVICE},peer_client_version=\"{version}\"}}"),
        )
    };
    let mut snapshot = fixture::snapshot();
    assert_eq!(total(&scrape_of(&snapshot), "0.7.1-other"), 1000.0);

    // The peer is upgraded: what it sends from now on is the new version's.
    snapshot.sessions[0].entry.received = 1_010;
    snapshot.sessions[0].entry.session.peer_version = dz_common::packet::Version::new([0, 8, 0, 0]);
    let text = scrape_of(&snapshot);
    assert_eq!(total(&text, "0.7.1-other"), 1000.0);
    assert_eq!(total(&text, "0.8.0"), 10.0);

    // Removed after 5 more packets; a snapshot from before must not count it anew.
    let removals_before = recorded.rx_versions.removals();
    let stale = snapshot.clone();
    let mut last = snapshot.sessions.remove(0).entry;
    last.received += 5;
    recorded.rx_versions.removed(&"doublezero0".into(), &last);
    let ignore = |_: &str, _, _: &str, _| Ok::<_, ()>(());
    recorded
        .rx_versions
        .look(&stale.sessions, removals_before, ignore)
        .unwrap();
    assert_eq!(total(&scrape_of(&snapshot), "0.8.0"), 15.0);
}

#[test]
fn a_peer_cannot_fill_the_metrics_with_versions() {
    let recorded = Recorded::default();
    let mut snapshot = fixture::snapshot();
    let mut rows = 0;
    for i in 0..200 {
        let entry = &mut snapshot.sessions[0].entry;
        entry.received += 1;
        entry.session.peer_version = dz_common::packet::Version::new([1, 0, i, 0]);
        rows = 0;
        let count = |_: &str, _, _: &str, _| {
            rows += 1;
            Ok::<_, ()>(())
        };
        recorded
            .rx_versions
            .look(&snapshot.sessions, 0, count)
            .unwrap();
    }
    assert_eq!(rows, 65);
}

#[test]
fn promtool_accepts_the_text() {
    let text = scrape(&exporter(fixture::snapshot()), Format::Prometheus);
    assert!(!text.contains("_total_total"));
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            // Not `eprintln!`, which the test harness swallows.
            let skipped = format!("SKIPPED promtool_accepts_the_text: promtool: {error}\n");
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            return;
        }
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{said}\n{text}", output.status);
    assert_eq!(said, "");
}

#[test]
fn open_metrics_ends_and_keeps_family_names() {
    let text = scrape(&exporter(fixture::snapshot()), Format::OpenMetrics);
    assert!(text.ends_with("# EOF\n"));
    assert!(
        text.contains("# TYPE doublezero_liveness_control_packets_tx counter\n"),
        "{text}"
    );
}
