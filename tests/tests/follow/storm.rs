//! Thousands of changes at once leave exactly the peers of the routes that are there, and the clock
//! goes on meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use dz_tests::bed::{HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::rng::Rng;
use dz_tests::wait::{eventually, monotonic_ns};

use crate::scene::{ALLOCATED, NEEDS, PEERS, Scene};

const DESTINATIONS: u64 = 300;
const CHANGES: usize = 6_000;
/// In one run of `ip`: the agent reads between them.
const AT_ONCE: usize = 500;

/// The routes as they should be: source by destination and metric.
type Model = BTreeMap<(Ipv4Addr, u32), Ipv4Addr>;

pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("storm::exactly_what_is_there", &NEEDS, exactly)]
}

/// `DZ_SEED=N` replays a run.
fn exactly() -> Result<()> {
    let seed = match std::env::var("DZ_SEED") {
        Ok(seed) => seed.parse().context("DZ_SEED")?,
        Err(_) => monotonic_ns(),
    };
    storm(seed).with_context(|| format!("replay with DZ_SEED={seed}"))
}

fn storm(seed: u64) -> Result<()> {
    let scene = Scene::new("follow", &["--follow", "proto=bgp"])?;
    let [untouched, ..] = PEERS;
    scene.route(&format!(
        "add {untouched} dev {INTERFACE} proto bgp src {HERE}"
    ))?;
    scene.until_up(&[(untouched, HERE)])?;
    let before = scene.sessions()?;
    let rng = Rng::new(seed, 0);
    let mut model = Model::new();
    for _ in 0..CHANGES / AT_ONCE {
        let lines: String = (0..AT_ONCE).map(|_| change(&rng, &mut model)).collect();
        scene.batch(&lines)?;
    }
    let mut wanted = best(&model);
    wanted.insert(untouched, HERE);
    eventually(PATIENCE, "the peers of the routes that are there", || {
        let entries = scene.entries()?;
        let sessions: BTreeMap<_, _> = entries
            .iter()
            .map(|entry| {
                (
                    Ipv4Addr::from(entry.key.peer),
                    Ipv4Addr::from(entry.key.local),
                )
            })
            .collect();
        let peers = scene.wanted()?.into_iter();
        let peers: BTreeMap<_, _> = peers
            .map(|(peer, p)| (peer, Ipv4Addr::from(p.local)))
            .collect();
        ensure!(
            sessions.len() == entries.len(),
            "two sessions with one peer"
        );
        ensure!(
            peers == wanted,
            "{} peers, {} wanted",
            peers.len(),
            wanted.len()
        );
        ensure!(
            sessions == wanted,
            "{} sessions, {} wanted",
            sessions.len(),
            wanted.len()
        );
        anyhow::Ok(())
    })?;
    ensure!(
        scene.sessions()?.get(&untouched) == before.get(&untouched),
        "who had no part in it has noticed"
    );
    // And what a dump says is what the notifications had said.
    let sessions = scene.sessions()?;
    scene.full_check()?;
    ensure!(
        scene.sessions()? == sessions,
        "a full check has changed something"
    );
    Ok(())
}

/// A change that the kernel takes.
fn change(rng: &Rng, model: &mut Model) -> String {
    let dst = Ipv4Addr::from(0x0a0b_0000 + rng.below(DESTINATIONS) as u32);
    let metric = rng.pick(&[0, 10]);
    let src = rng.pick(&[HERE, ALLOCATED]);
    let place = format!("{dst} dev {INTERFACE} proto bgp metric {metric}");
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = match model.get(&(dst, metric)) {
        Some(_) if rng.chance(50) => {
            model.remove(&(dst, metric));
            writeln!(line, "route delete {place}")
        }
        Some(_) => {
            model.insert((dst, metric), src);
            writeln!(line, "route replace {place} src {src}")
        }
        None => {
            model.insert((dst, metric), src);
            writeln!(line, "route add {place} src {src}")
        }
    };
    line
}

fn best(model: &Model) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let mut best = BTreeMap::new();
    // In the order of the metrics.
    for ((dst, _), src) in model {
        best.entry(*dst).or_insert(*src);
    }
    best
}
