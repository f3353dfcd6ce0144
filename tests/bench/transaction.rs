//! From the moment in which a disconnect is decided to the end of its route, one peer at a time and
//! in batches, and how long whole requests take.
//!
//! - The commit is the control program's run: its own time, from the event that it emits.
//! - The route's end is when its notification has been read from a netlink socket of the bench's own,
//!   by a thread that does nothing else; netlink carries no time, so that waking up is included.
//! - Baseline: the same number of routes deleted (added) through bare netlink, each acknowledged
//!   before the next, from the first request to the last notification, read by the same thread.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use dz_common::packet::State;

use crate::bed::{Bed, Done};
use crate::row::{Goal, Row};
use crate::times::Times;
use crate::wakeups::Wakeups;

const SINGLES: usize = 1_000;
/// Batches: peers, repetitions.
const BATCHES: [(usize, usize); 2] = [(1_000, 9), (10_000, 5)];
/// The reply comes when AdminDown has been sent three times: within a tenth of the interval, 100 ms at most, µs.
const FAREWELLS: f64 = 100_000.0;
/// Waking a thread up and being woken takes some 10 µs; a machine where one time in a hundred takes
/// longer than this, µs, was busy with something else.
const NOISE_WAKEUP: f64 = 250.0;
/// So was one whose slowest repetition of a baseline took so many times as long as the fastest.
const NOISE_BATCH: f64 = 1.6;

pub(crate) fn run(part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    ensure!(part.is_none(), "this bench has no parts");
    let mut bed = Bed::new()?;
    let mut rows = singles(&mut bed)?;
    for (peers, repetitions) in BATCHES {
        rows.extend(batches(&mut bed, peers, repetitions)?);
    }
    Ok(rows)
}

/// A thousand peers, disconnected one after the other.
fn singles(bed: &mut Bed) -> anyhow::Result<Vec<Row>> {
    eprintln!("one peer at a time, {SINGLES} times");
    let all: Vec<_> = (0..SINGLES).collect();
    bed.connect(&all)?;
    bed.events.take()?;
    let mut wakeups = Wakeups::new()?;
    let (mut ends, mut whole, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut woken = Vec::new();
    for number in all {
        let done = bed.disconnect(&[number])?;
        ends.extend(commit_to_end_ns(bed, &done)?);
        whole.push(done.took_ns);
        bed.add_bare(1)?;
        bare.push(bed.delete_bare(1)?);
        woken.push(wakeups.round_trip()?);
    }
    let bare = Times::of_ns(bare);
    let noisy = Times::of_ns(woken.iter().copied()).quantile(0.99) > NOISE_WAKEUP;
    let mut rows = quantiles(
        "single/commit_to_route_gone",
        &ends,
        Some(&bare),
        noisy,
        500.0,
    );
    rows.extend(quantiles(
        "single/wakeup",
        &woken,
        None,
        noisy,
        f64::INFINITY,
    ));
    rows.extend(quantiles(
        "single/request_to_all_gone",
        &whole,
        Some(&bare),
        noisy,
        FAREWELLS + 1_000.0,
    ));
    Ok(rows)
}

/// All at once, several times.
fn batches(bed: &mut Bed, peers: usize, repetitions: usize) -> anyhow::Result<Vec<Row>> {
    eprintln!("{peers} peers at once, {repetitions} times");
    let all: Vec<_> = (0..peers).collect();
    let (mut connects, mut ups, mut adds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut disconnects, mut deletes, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let done = bed.connect(&all)?;
        connects.push(done.took_ns);
        ups.push(done.routes_ns);
        bed.events.take()?;
        let done = bed.disconnect(&all)?;
        disconnects.push(done.took_ns);
        ends.extend(commit_to_end_ns(bed, &done)?);
        adds.push(bed.add_bare(peers)?);
        deletes.push(bed.delete_bare(peers)?);
    }
    let (adds, deletes) = (Times::of_ns(adds), Times::of_ns(deletes));
    let goal = |us| (peers == 10_000).then_some(us);
    let name = |what| format!("batch_{peers}/{what}");
    let mut rows = vec![
        whole(name("connect"), &connects, &adds, goal(1_000_000.0)),
        whole(name("connect_until_routes"), &ups, &adds, None),
        whole(
            name("disconnect"),
            &disconnects,
            &deletes,
            goal(FAREWELLS + 300_000.0),
        ),
    ];
    let noisy = is_noisy(&deletes);
    let name = name("commit_to_route_gone");
    rows.extend(quantiles(&name, &ends, None, noisy, f64::INFINITY));
    Ok(rows)
}

/// Of each peer, in ns.
fn commit_to_end_ns(bed: &mut Bed, done: &Done) -> anyhow::Result<Vec<u64>> {
    let events = bed.events.take()?.into_iter();
    let commits: HashMap<_, _> = events
        .filter(|event| event.to == State::AdminDown)
        .map(|event| (Ipv4Addr::from(event.key.peer), event.at_ns))
        .collect();
    let times = done.changes.iter().map(|change| {
        let dst = change.route.dst;
        let commit_ns = commits.get(&dst);
        let commit_ns = commit_ns.with_context(|| format!("{dst}: no AdminDown was reported"))?;
        ensure!(*commit_ns <= change.read_ns, "{dst}: the route went first");
        Ok(change.read_ns - commit_ns)
    });
    times.collect()
}

fn is_noisy(baseline: &Times) -> bool {
    let [fastest, slowest] = baseline.spread();
    slowest > NOISE_BATCH * fastest
}

fn whole(name: String, times_ns: &[u64], baseline: &Times, goal: Option<f64>) -> Row {
    let times = Times::of_ns(times_ns.iter().copied());
    Row {
        name,
        value: times.median(),
        unit: "us",
        spread: Some(times.spread()),
        baseline: Some(baseline.median()),
        goal: goal.map(Goal::AtMost),
        noisy: is_noisy(baseline),
    }
}

/// Median, 99th percentile and maximum; the goal, if it is finite, is about the second.
fn quantiles(
    name: &str,
    times_ns: &[u64],
    baseline: Option<&Times>,
    noisy: bool,
    goal: f64,
) -> Vec<Row> {
    let times = Times::of_ns(times_ns.iter().copied());
    [("p50", 0.5), ("p99", 0.99), ("max", 1.0)]
        .map(|(quantile, part)| Row {
            name: format!("{name}/{quantile}"),
            value: times.quantile(part),
            unit: "us",
            spread: None,
            baseline: baseline.map(|baseline| baseline.quantile(part)),
            goal: (goal.is_finite() && quantile == "p99").then_some(Goal::AtMost(goal)),
            noisy,
        })
        .into()
}
