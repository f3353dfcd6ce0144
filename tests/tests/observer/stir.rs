//! The two runs: on a wire that holds, and on one that is cut and joined meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dz_agent::net::routes::DEFAULT_PROTOCOL;
use dz_tests::bed::PATIENCE;
use dz_tests::harness::Test;
use dz_tests::rng::Rng;
use dz_tests::rtnl::Table;
use dz_tests::wait::{eventually, monotonic_ns};

use crate::history::{History, Round};
use crate::judge::{Verdict, judge};
use crate::scene::{NEEDS, PEERS, Scene};
use crate::watch::Watch;

/// Rounds of requests on a wire that holds.
const ROUNDS: usize = 80;
/// Times that the wire is cut.
const CUTS: usize = 4;
/// Requests that are under way together, at most, of each kind.
const TOGETHER: u64 = 4;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("stir::steady", &NEEDS, || run("stir::steady", false)),
        Test::new("stir::flaps", &NEEDS, || run("stir::flaps", true)),
    ]
}

fn run(name: &str, flaps: bool) -> Result<()> {
    let seed = match std::env::var("DZ_SEED") {
        Ok(text) => text.parse().with_context(|| format!("DZ_SEED={text}"))?,
        Err(_) => monotonic_ns(),
    };
    println!("{name}: DZ_SEED={seed}");
    let scene = Scene::new()?;
    let up = AtomicUsize::new(0);
    let first = generation_of_probe(&scene)?;
    let stop = AtomicBool::new(false);
    let (rounds, sizes) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&scene, &up, &stop));
        let sizes = stir(&scene, &Rng::new(seed, 0), flaps, &up);
        stop.store(true, Ordering::Relaxed);
        let rounds = watcher.join().map_err(|_| anyhow!("observer"))?;
        anyhow::Ok((rounds?, sizes))
    })?;
    let mut history = History {
        acts: scene.acts(),
        rounds,
        changes: scene.log.all()?,
        ours: (DEFAULT_PROTOCOL, scene.ifindex),
        generations: None,
    };
    let sizes = match sizes {
        Ok(sizes) => sizes,
        // What was seen until then says more than what the agent said.
        Err(error) => return Err(error.context(described(&judge(&history).faults))),
    };
    history.generations = Some((first, generation_of_probe(&scene)?));
    report(name, &history, &judge(&history), &sizes)
}

fn described(faults: &[String]) -> String {
    let shown: Vec<_> = faults.iter().take(10).map(String::as_str).collect();
    format!("{} faults: {}", faults.len(), shown.join("; "))
}

fn report(name: &str, history: &History, verdict: &Verdict, sizes: &[usize]) -> Result<()> {
    println!(
        "{name}: {} requests about 1 to {} peers; {} sessions seen Up, {} routes came, {} went; {} \
         disconnects; {} rounds of looks, {} times at a peer between commit and answer",
        sizes.len(),
        sizes.iter().max().unwrap_or(&0),
        verdict.up.len(),
        verdict.installed,
        verdict.withdrawn,
        verdict.disconnects,
        history.rounds.len(),
        verdict.in_between,
    );
    let faults = &verdict.faults;
    ensure!(faults.is_empty(), "{}", described(faults));
    // All of them came Up at least once; more would depend on how busy the machine is.
    ensure!(verdict.up.len() >= PEERS && verdict.installed >= PEERS);
    ensure!(verdict.withdrawn == verdict.installed);
    ensure!(verdict.in_between > 0, "no look fell into a disconnect");
    Ok(())
}

/// Connects a peer that is not one of the thousand, and returns the generation of its session.
fn generation_of_probe(scene: &Scene) -> Result<u32> {
    const PROBE: &str = "10.99.0.1";
    let here = dz_tests::bed::HERE.to_string();
    scene.agent.cli(&["connect", PROBE, "--local", &here])?;
    let entry = dz_tests::bed::entry(scene.agent.home())?;
    scene.agent.cli(&["disconnect", PROBE])?;
    Ok(entry.generation)
}

fn watch(scene: &Scene, up: &AtomicUsize, stop: &AtomicBool) -> Result<Vec<Round>> {
    let mut watch = Watch::new(scene, up)?;
    let mut rounds = Vec::new();
    loop {
        // One more after the end: it sees what is left.
        let last = stop.load(Ordering::Relaxed);
        rounds.push(watch.round()?);
        if last {
            return Ok(rounds);
        }
    }
}

/// Connects and disconnects. Returns the sizes of the requests.
fn stir(scene: &Scene, rng: &Rng, flaps: bool, up: &AtomicUsize) -> Result<Vec<usize>> {
    let mut connected = vec![false; PEERS];
    let mut sizes = Vec::new();
    everybody(scene, &mut connected, true, &mut sizes)?;
    at_rest(scene, up)?;
    let done = AtomicBool::new(false);
    let flapper = rng_of(rng);
    thread::scope(|scope| {
        let flapper = scope.spawn(|| {
            let cut = match flaps {
                true => cut_and_join(scene, flapper, up),
                false => Ok(()),
            };
            done.store(true, Ordering::Relaxed);
            cut
        });
        let mut rounds = 0;
        while rounds < ROUNDS || !done.load(Ordering::Relaxed) {
            round(scene, rng, &mut connected, &mut sizes)?;
            rounds += 1;
        }
        flapper.join().map_err(|_| anyhow!("flapper"))?
    })?;
    everybody(scene, &mut connected, true, &mut sizes)?;
    at_rest(scene, up)?;
    everybody(scene, &mut connected, false, &mut sizes)?;
    Ok(sizes)
}

/// Requests about a few, about many or about all, several under way together; who is connected is
/// disconnected and the other way round.
fn round(scene: &Scene, rng: &Rng, connected: &mut [bool], sizes: &mut Vec<usize>) -> Result<()> {
    // As many sizes between 1 and 2 as between 500 and 1,000.
    let most = 1 << rng.below(11);
    let wanted = 1 + rng.index(most.min(PEERS));
    let mut numbers: Vec<_> = (0..PEERS).collect();
    for at in 0..wanted {
        numbers.swap(at, at + rng.index(PEERS - at));
    }
    let (gone, there): (Vec<_>, Vec<_>) = numbers[..wanted]
        .iter()
        .partition(|number| connected[**number]);
    let mut requests = Vec::new();
    for (connect, peers) in [(false, gone), (true, there)] {
        let parts = 1 + rng.below(TOGETHER) as usize;
        let part = peers.len().div_ceil(parts).max(1);
        requests.extend(peers.chunks(part).map(|peers| (connect, peers.to_vec())));
    }
    sizes.extend(requests.iter().map(|(_, peers)| peers.len()));
    thread::scope(|scope| {
        let asked: Vec<_> = requests
            .iter()
            .map(|(connect, peers)| scope.spawn(|| scene.ask(*connect, peers)))
            .collect();
        asked
            .into_iter()
            .try_for_each(|asked| asked.join().map_err(|_| anyhow!("a request"))?)
    })?;
    for (connect, peers) in requests {
        peers.iter().for_each(|peer| connected[*peer] = connect);
    }
    Ok(())
}

/// Connects or disconnects all who are not, in one request.
fn everybody(
    scene: &Scene,
    connected: &mut [bool],
    connect: bool,
    sizes: &mut Vec<usize>,
) -> Result<()> {
    let rest: Vec<_> = (0..PEERS).filter(|n| connected[*n] != connect).collect();
    if !rest.is_empty() {
        scene.ask(connect, &rest)?;
        sizes.push(rest.len());
    }
    connected.fill(connect);
    Ok(())
}

/// All of them Up, and a route to each.
fn at_rest(scene: &Scene, up: &AtomicUsize) -> Result<()> {
    let mut table = Table::open(&scene.netns)?;
    eventually(PATIENCE, "every session Up, with its route", || {
        let up = up.load(Ordering::Relaxed);
        let routes = table.dump(DEFAULT_PROTOCOL, scene.ifindex)?.len();
        ensure!((up, routes) == (PEERS, PEERS), "{up} Up, {routes} routes");
        Ok(())
    })
}

fn rng_of(rng: &Rng) -> Rng {
    Rng::new(rng.next(), 1)
}

/// Cuts the wire until hardly anybody is Up, and joins it until most are, or for a moment only.
fn cut_and_join(scene: &Scene, rng: Rng, up: &AtomicUsize) -> Result<()> {
    for _ in 0..CUTS {
        scene.far.set_cut(true);
        let few = rng.index(PEERS / 4);
        eventually(PATIENCE, "sessions Down", || {
            (up.load(Ordering::Relaxed) <= few).then_some(())
        })?;
        scene.far.set_cut(false);
        let many = PEERS / 8 + rng.index(PEERS / 8);
        eventually(PATIENCE, "sessions Up", || {
            (up.load(Ordering::Relaxed) >= many).then_some(())
        })?;
        thread::sleep(Duration::from_millis(rng.below(500)));
    }
    Ok(())
}
