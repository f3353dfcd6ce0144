//! How what the agent takes grows with the number of its sessions: at 1 s × 3, all of them Up, and ours
//! the clock that has the packets sent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dz_tests::agent::Agent;
use dz_tests::bare::{Bare, Program};
use dz_tests::bed::INTERFACE;

use crate::crowd::{Hosts, Timing};
use crate::memory;
use crate::row::{Goal, Row};
use crate::run_time::busy;
use crate::times::Times;

const SIZES: [u32; 3] = [1_000, 10_000, 100_000];
const TIMING: Timing = Timing {
    interval_ms: 1_000,
    detect_mult: 3,
};
const SETTLE: Duration = Duration::from_secs(5);
/// Longer than from one full check to the next.
const WINDOW: Duration = Duration::from_secs(15);
/// How often what is asked for is asked for.
const ASKED: usize = 5;
/// Ten times the sessions may take so many times as much: linear, and a little for caches.
const LINEAR: f64 = 12.0;

/// A figure, its unit, and what it is of each size.
type Line = (&'static str, &'static str, Vec<f64>);

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut lines: Vec<Line> = Vec::new();
    for sessions in SIZES {
        eprintln!("{sessions} sessions");
        for (number, (name, unit, value)) in measure(sessions)?.into_iter().enumerate() {
            if lines.len() <= number {
                lines.push((name, unit, Vec::new()));
            }
            lines[number].2.push(value);
        }
    }
    Ok(lines.into_iter().flat_map(rows).collect())
}

fn measure(sessions: u32) -> anyhow::Result<[(&'static str, &'static str, f64); 5]> {
    let hosts = Hosts::new()?;
    let _far = Bare::attach(&hosts.there, INTERFACE, Program::RespondEthernet)?;
    let mut agent = hosts.agent_with_sessions(sessions, TIMING, &["--attach=tc"])?;
    thread::sleep(SETTLE);
    let busy_ns = busy(&mut agent, WINDOW)?;
    let percent = 100.0 * busy_ns / WINDOW.as_nanos() as f64;
    let mut scrapes = Vec::new();
    let mut lists = Vec::new();
    let mut check_ms = 0.0;
    for _ in 0..ASKED {
        let begun = Instant::now();
        let text = scrape(&agent)?;
        scrapes.push(begun.elapsed().as_secs_f64() * 1e3);
        check_ms = 1e3 * number(&text, "doublezero_liveness_full_check_seconds")?;
        let begun = Instant::now();
        agent.cli(&["sessions"])?;
        lists.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok([
        ("agent", "%", percent),
        ("memory", "MB", memory::resident(&mut agent)? as f64 / 1e6),
        ("scrape", "ms", Times::of(scrapes).median()),
        ("sessions", "ms", Times::of(lists).median()),
        ("full_check", "ms", check_ms),
    ])
}

/// Every size, what a session more takes by the line of least squares, and how that of the largest is to
/// the next smaller one's.
fn rows((name, unit, values): Line) -> Vec<Row> {
    let row = |name: String, value: f64, unit: &'static str, goal| Row {
        name,
        value,
        unit,
        spread: None,
        baseline: None,
        goal,
        noisy: false,
    };
    let mut rows: Vec<_> = SIZES
        .iter()
        .zip(&values)
        .map(|(sessions, value)| row(format!("{name}/{sessions}"), *value, unit, None))
        .collect();
    let sizes = SIZES.map(f64::from);
    let [mean_size, mean] =
        [&sizes[..], &values].map(|of| of.iter().sum::<f64>() / of.len() as f64);
    let pairs = || sizes.iter().zip(&values);
    let slope = pairs()
        .map(|(size, value)| (size - mean_size) * (value - mean))
        .sum::<f64>()
        / sizes
            .iter()
            .map(|size| (size - mean_size).powi(2))
            .sum::<f64>();
    rows.push(row(
        format!("{name}/per_thousand"),
        1_000.0 * slope,
        unit,
        None,
    ));
    if let [.., smaller, larger] = values[..] {
        let goal = Some(Goal::AtMost(LINEAR));
        rows.push(row(
            format!("{name}/tenfold"),
            larger / smaller,
            "times",
            goal,
        ));
    }
    rows
}

/// What a collector reads.
fn scrape(agent: &Agent) -> anyhow::Result<String> {
    let mut socket = UnixStream::connect(agent.home().socket())?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    Ok(text)
}

/// The value of a series without labels.
fn number(text: &str, name: &str) -> anyhow::Result<f64> {
    let values = text.lines().find_map(|line| line.strip_prefix(name));
    let value = values.with_context(|| format!("no {name}"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("{name}: {value}"))
}
