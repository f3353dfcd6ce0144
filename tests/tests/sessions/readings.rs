//! Metrics, counters, the maps and the wire tell the same story.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dz_common::counters::{Counter, Kind};
use dz_common::packet::State;
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE, THERE};
use dz_tests::bpftool;
use dz_tests::harness::{Requirement, Test};
use dz_tests::udp_peer::Rules;
use dz_tests::wait::eventually;
use dz_tests::wire::Direction;
use serde_json::Value;

use crate::needs::NEEDS;

/// Long, so that little moves while four readings are taken.
const INTERVAL_MS: u32 = 1_000;
const PORT: u16 = dz_common::LIVENESS_PORT;
const ACCEPT_OPENMETRICS: &str = "Accept: application/openmetrics-text; version=1.0.0";

pub(super) fn tests() -> Vec<Test> {
    let tools = ["bpftool", "curl", "promtool"].map(Requirement::Tool);
    let needs: Vec<_> = NEEDS.into_iter().chain(tools).collect();
    vec![Test::new("readings::agree", &needs, agree)]
}

fn agree() -> Result<()> {
    let bed = Bed::new("readings", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    bed::connect(&agent)?;
    // While the peer does not have its port yet.
    invalid_and_unknown(&bed)?;
    let peer = bed.peer(Rules::Deployed, INTERVAL_MS)?;
    bed::peer_until(&peer, State::Up)?;
    let up = bed::until(agent.home(), State::Up)?;
    eventually(PATIENCE, "a few packets more", || {
        let now = bed::entry(agent.home())?;
        ensure!(now.received > up.received + 2, "{now:?}");
        anyhow::Ok(())
    })?;
    bed.wire.set_cut_both(true);
    bed::until(agent.home(), State::Down)?;
    bed::until_route(&bed.here, THERE, false)?;
    // Our own clock goes on while it looks.
    eventually(PATIENCE, "four readings with nothing in between", || {
        Readings::take(&bed, &agent)?.agree(&agent)
    })?;
    formats(&bed, &agent)
}

/// Two packets that are no liveness packets, one from another port, and one of a peer that nobody knows.
fn invalid_and_unknown(bed: &Bed) -> Result<()> {
    let stranger = Ipv4Addr::new(10, 6, 6, 6);
    bed.there
        .ip(&format!("address add {stranger}/32 dev {INTERFACE}"))?;
    let known = bed.there.run(|| UdpSocket::bind((THERE, PORT)))?;
    known.send_to(&[0x20; 39], (HERE, PORT))?;
    known.send_to(&[0xff; 40], (HERE, PORT))?;
    let elsewhere = bed.there.run(|| UdpSocket::bind((THERE, 0)))?;
    elsewhere.send_to(&[0x20; 40], (HERE, PORT))?;
    let unknown = bed.there.run(|| UdpSocket::bind((stranger, PORT)))?;
    let mut valid = [0; 40];
    valid[..8].copy_from_slice(&[0x20, 0x40, 3, 40, 0, 0, 0, 7]);
    valid[12..20].copy_from_slice(&[0, 15, 66, 64, 0, 15, 66, 64]);
    unknown.send_to(&valid, (HERE, PORT))?;
    Ok(())
}

/// What everybody says at one moment.
struct Readings {
    /// Liveness packets that entered at our end, and packets to our port that reached it.
    wire: (u64, u64),
    metrics: Metrics,
    /// `counters --json`, by counter, summed over blocks.
    counters: BTreeMap<String, u64>,
    /// The map, summed over blocks and CPUs.
    map: BTreeMap<String, u64>,
}

impl Readings {
    /// Reads everything, and the first two once more: nothing must have moved.
    fn take(bed: &Bed, agent: &Agent) -> Result<Self> {
        let counts = bed.wire.counts();
        let wire = on_the_wire(bed);
        let counters = counters(agent)?;
        let readings = Self {
            metrics: Metrics::parse(&scrape_tcp(bed, &[])?),
            map: map(agent)?,
            wire,
            counters,
        };
        ensure!(bed.wire.counts() == counts, "the wire moved");
        ensure!(
            self::counters(agent)? == readings.counters,
            "the counters moved"
        );
        Ok(readings)
    }

    fn agree(&self, agent: &Agent) -> Result<()> {
        println!(
            "{:#?}",
            self.counters
                .iter()
                .filter(|(_, n)| **n > 0)
                .collect::<Vec<_>>()
        );
        for counter in Counter::ALL {
            let name = counter.name();
            let (shown, stored) = (self.counters.get(name), self.map.get(name));
            ensure!(
                shown.is_some() && shown == stored,
                "{name}: {shown:?}, map {stored:?}"
            );
            let (family, label) = match counter.kind() {
                Kind::Exit => ("doublezero_liveness_exits_total", "exit"),
                Kind::Tally => ("doublezero_liveness_tallies_total", "tally"),
                Kind::Transition => continue,
            };
            let scraped = self.metrics.sum(family, &[(label, name)]);
            ensure!(
                shown == Some(&scraped),
                "{name}: {shown:?}, metrics {scraped}"
            );
        }
        let count = |name: &str| self.counters.get(name).copied().unwrap_or_default();
        let labels = [("iface", INTERFACE), ("local_ip", "169.254.7.0")];
        let total = |name: &str| {
            self.metrics
                .sum(&format!("doublezero_liveness_{name}_total"), &labels)
        };
        // What left: the counter, the sessions' own, and the wire.
        let sent = total("control_packets_tx");
        let (near, far) = self.wire;
        let entry = bed::entry(agent.home())?;
        ensure!(sent == near, "sent {sent}, on the wire {near}");
        ensure!(
            sent == entry.answered + entry.originated + count("rx_unproven_answered"),
            "sent {sent}, {entry:?}"
        );
        ensure!(total("answered") == entry.answered && total("originated") == entry.originated);
        // What arrived.
        let received = total("control_packets_rx");
        let (invalid, unknown) = (
            total("control_packets_rx_invalid"),
            total("unknown_peer_packets"),
        );
        ensure!(received == entry.received, "received {received}, {entry:?}");
        ensure!(
            received + invalid + unknown == far,
            "received {received}, invalid {invalid}, unknown {unknown}, on the wire {far}"
        );
        ensure!(
            (invalid, unknown) == (3, 1),
            "invalid {invalid}, unknown {unknown}"
        );
        let each = ["drop_short", "drop_version", "drop_source_port"].map(count);
        ensure!(each == [1; 3], "{each:?}");
        let timeouts = |name: &str, reason: &str| {
            let labels = [("state_from", "up"), ("reason", reason)];
            self.metrics.sum(name, &labels)
        };
        let seen = [
            count("up_to_down_timeout"),
            timeouts("doublezero_liveness_downs_total", "timeout"),
            // As the deployed client calls it.
            timeouts(
                "doublezero_liveness_session_transitions_total",
                "detect_timeout",
            ),
        ];
        ensure!(seen == [1; 3], "timeouts {seen:?}");
        ensure!(
            self.metrics
                .sum("doublezero_liveness_sessions", &[("state", "down")])
                == 1
        );
        ensure!(total("route_installs") == 1 && total("route_withdraws") == 1);
        println!("sent {sent}, received {received}, invalid {invalid}, unknown {unknown}: agreed");
        Ok(())
    }
}

/// Liveness packets that entered at our end, and packets to our port that reached it.
fn on_the_wire(bed: &Bed) -> (u64, u64) {
    let near = bed::liveness(&bed.wire, Direction::AToB).len() as u64;
    let records = bed.wire.records().into_iter();
    let far = records.filter(|record| {
        let udp = dz_tests::frame::parse_udp(&record.packet);
        record.direction == Direction::BToA
            && record.forwarded
            && udp.is_some_and(|udp| *udp.dst.ip() == HERE && udp.dst.port() == PORT)
    });
    (near, far.count() as u64)
}

/// What `counters --json` says, summed over blocks.
pub(super) fn counters(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let shown = agent.json(&["counters", "--json"])?;
    let blocks = shown["blocks"].as_array().context("blocks")?;
    let mut sums = BTreeMap::new();
    for block in blocks {
        let counters = block["counters"].as_object().context("counters")?;
        for (name, value) in counters {
            *sums.entry(name.clone()).or_default() += value.as_u64().context("a number")?;
        }
    }
    Ok(sums)
}

/// Summed over blocks and CPUs.
fn map(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let mut sums = BTreeMap::new();
    for block in bpftool::dump(&agent.home().pin_dir().join("dz_counters"))? {
        for cpu in block["values"].as_array().context("values of CPUs")? {
            let fields = cpu["value"].as_object().context("fields with names")?;
            for (name, value) in fields {
                *sums.entry(name.clone()).or_default() += number(value)?;
            }
        }
    }
    Ok(sums)
}

/// bpftool writes numbers beyond 53 bits as text.
fn number(value: &Value) -> Result<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.with_context(|| format!("not a number: {value}"))
}

/// Samples in the text format: name with labels, and value.
struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(sample).collect())
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let fits = |found: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(name, value)| found.get(*name).is_some_and(|found| found == value))
        };
        let found = self
            .0
            .iter()
            .filter(|(n, found, _)| n == name && fits(found));
        found.map(|(.., value)| *value).sum::<f64>() as u64
    }
}

/// `name{label="value",…} value`; our label values contain neither commas nor quotes.
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let label = |text: &str| {
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    let labels = labels.trim_end_matches('}').split(',').filter_map(label);
    Some((name.to_owned(), labels.collect(), value.parse().ok()?))
}

fn scrape_tcp(bed: &Bed, more: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail"])
        .args(more);
    said(
        bed.here
            .output(command.arg("http://127.0.0.1:44881/metrics"))?,
    )
}

fn scrape_socket(agent: &Agent, more: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail"])
        .args(more);
    command.arg("--unix-socket").arg(agent.home().socket());
    said(command.arg("http://localhost/metrics").output()?)
}

fn said(output: std::process::Output) -> Result<String> {
    if !output.status.success() {
        bail!("curl: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn formats(bed: &Bed, agent: &Agent) -> Result<()> {
    for text in [scrape_tcp(bed, &[])?, scrape_socket(agent, &[])?] {
        promtool(&text)?;
    }
    for text in [
        scrape_tcp(bed, &["--include"])?,
        scrape_socket(agent, &["--include"])?,
    ] {
        let head = text.to_lowercase();
        ensure!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{text}"
        );
    }
    let open = ["--include", "--header", ACCEPT_OPENMETRICS];
    for text in [scrape_tcp(bed, &open)?, scrape_socket(agent, &open)?] {
        let head = text.to_lowercase();
        ensure!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{text}"
        );
        ensure!(text.ends_with("# EOF\n"), "no end: {text}");
    }
    Ok(())
}

fn promtool(text: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child
        .stdin
        .take()
        .context("standard input")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let words =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(
        output.status.success(),
        "{}: {words:?}\n{text}",
        output.status
    );
    ensure!(words.concat().trim().is_empty(), "promtool: {words:?}");
    Ok(())
}
