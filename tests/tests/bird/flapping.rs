//! Routes that come and go, one of them a thousand times (over GRE, 200), in random order with
//! others: what is left are the sessions of the routes that exist, and nothing happens to those of
//! the others.
//!
//! `DZ_SEED=N` replays a run's order; when BIRD sends what it is told differs from run to run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_common::packet::State;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::INTERFACE;
use dz_tests::bird::{Bird, PROTOCOL};
use dz_tests::harness::note;
use dz_tests::rng::Rng;
use dz_tests::route_log::RouteLog;
use dz_tests::wait::{eventually, monotonic_ns};

use crate::beside::Beside;
use crate::scene::{Host, Hosts, Kind};
use crate::sessions::{self, entries};

/// The far host's address that goes and comes so often.
const FLAPPER: usize = 0;
/// How often.
const fn times(kind: Kind) -> usize {
    match kind {
        Kind::Veth => 1_000,
        // In emulation, mostly, where each time takes many times as long.
        Kind::Gre => 200,
    }
}
/// Addresses of each host that come and go, the flapper among them, and those that do not.
const LOOSE: usize = 16;
const FIXED: [usize; 8] = [16, 17, 18, 19, 20, 21, 22, 23];
const ALL: usize = LOOSE + FIXED.len();
/// Intervals to detection: nobody falls silent here, not even where a machine stands still for
/// seconds.
const DETECT: u8 = 100;
/// For thousands of changes, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// `rtm_protocol` of routes without a daemon (`RTPROT_BGP`).
const BGP: u8 = 186;

/// Withdrawn and announced by BIRD. The flapper's route is really gone each time, in the kernel's
/// own words; the others are not waited for, so that BIRD may well pass over some changes.
pub(crate) fn by_bird(kind: Kind) -> Result<()> {
    let beside = Beside::with(kind, ALL, |host| {
        host.follower(Home::new()?, "proto=bird", DETECT)
    })?;
    beside.until_all(State::Up)?;
    let fixed = beside.steady(&FIXED)?;
    let hosts = beside.hosts.clone();
    let log = RouteLog::start(&hosts.here.netns)?;
    let flapper = hosts.there.addresses[FLAPPER];
    let birds = [beside.bird()?, beside.far_bird()?];

    let rng = seeded()?;
    // What each host announces, the near one's first.
    let mut announced = [(); 2].map(|()| (0..ALL).collect::<BTreeSet<_>>());
    let mut seen = 0;
    for _ in 0..2 * times(kind) {
        for _ in 0..rng.below(3) {
            toggle(
                &birds,
                &mut announced,
                rng.index(2),
                1 + rng.index(LOOSE - 1),
            )?;
        }
        toggle(&birds, &mut announced, 1, FLAPPER)?;
        let gone = !announced[1].contains(&FLAPPER);
        let changes = log.wait(seen, PATIENCE, |changes| {
            let mut last = changes.iter().rev();
            let last = last.find(|change| change.route.dst == flapper);
            last.is_some_and(|change| change.gone == gone)
        });
        seen += changes.context("the flapping route")?.len();
    }
    let changes = log.all()?;
    let gone = |dst: Option<Ipv4Addr>| {
        let gone = changes.iter().filter(|change| change.gone);
        let of = |found: Ipv4Addr| dst.is_none_or(|dst| dst == found);
        gone.filter(|change| change.route.protocol == PROTOCOL && of(change.route.dst))
            .count()
    };
    println!(
        "the flapping route went {} times, any route {} times",
        gone(Some(flapper)),
        gone(None)
    );
    ensure!(gone(Some(flapper)) == times(kind));

    let both = [beside.agent()?, beside.far_agent()?];
    let [near, far] = &announced;
    // What a host announces is what the other one has routes to.
    settled(&hosts, both, [far, near])?;
    ensure!(beside.steady(&FIXED)? == fixed, "the others have changed");
    Ok(())
}

/// Announces what is not announced, and takes back what is.
fn toggle(
    birds: &[&Bird; 2],
    announced: &mut [BTreeSet<usize>; 2],
    host: usize,
    number: usize,
) -> Result<()> {
    if announced[host].remove(&number) {
        birds[host].withdraw(number)
    } else {
        announced[host].insert(number);
        birds[host].announce(number)
    }
}

/// Written straight into the kernel's tables, as fast as they go, sources included.
pub(crate) fn by_netlink(kind: Kind) -> Result<()> {
    /// In a batch.
    const CHANGES: usize = 200;
    // For each host.
    let batches = times(kind) / 50;
    let hosts = Hosts::new(kind, u16::try_from(ALL)?)?;
    let mut written = [Routes::default(), Routes::default()];
    let (here, there) = (&hosts.here, &hosts.there);
    let agents = [
        here.follower(Home::new()?, "proto=bgp", DETECT)?,
        there.follower(Home::new()?, "proto=bgp", DETECT)?,
    ];
    let both = [&agents[0], &agents[1]];
    for (host, routes) in hosts.both().into_iter().zip(&mut written) {
        let mut lines = String::new();
        for number in 0..ALL {
            routes.toggle(host, number, &mut lines)?;
        }
        batch(host.0, &lines)?;
    }
    let all: BTreeSet<_> = (0..ALL).collect();
    settled(&hosts, both, [&all, &all])?;
    let steady = || -> Result<_> {
        Ok([
            sessions::steady(agents[0].home(), there, &FIXED)?,
            sessions::steady(agents[1].home(), here, &FIXED)?,
        ])
    };
    let fixed = steady()?;

    let rng = seeded()?;
    let mut flaps = 0;
    for _ in 0..batches {
        for (host, routes) in hosts.both().into_iter().zip(&mut written) {
            let mut lines = String::new();
            for _ in 0..CHANGES {
                // Half of all changes are the flapper's.
                let number = if rng.chance(50) {
                    FLAPPER
                } else {
                    rng.index(LOOSE)
                };
                if rng.chance(25) {
                    routes.borrow_source(host, number, ALL - 1 - number, &mut lines)?;
                } else {
                    routes.toggle(host, number, &mut lines)?;
                    flaps += usize::from(number == FLAPPER);
                }
            }
            batch(host.0, &lines)?;
        }
    }
    println!(
        "the flapping routes came or went {flaps} times, of {} changes",
        2 * batches * CHANGES
    );
    // With the source that belongs to them, for the far end to know.
    for (host, routes) in hosts.both().into_iter().zip(&mut written) {
        let mut lines = String::new();
        routes.own_sources(host, &mut lines)?;
        batch(host.0, &lines)?;
    }
    let [near, far] = &written;
    settled(&hosts, both, [&near.0, &far.0])?;
    ensure!(steady()? == fixed, "the others have changed");
    Ok(())
}

/// The routes of one host, by number of the far one's addresses.
#[derive(Default)]
struct Routes(BTreeSet<usize>);

impl Routes {
    /// Adds what is not there, and deletes what is.
    fn toggle(&mut self, host: (&Host, &Host), number: usize, lines: &mut String) -> Result<()> {
        if self.0.remove(&number) {
            let (dst, proto) = (host.1.addresses[number], BGP);
            writeln!(lines, "route delete {dst}/32 dev {INTERFACE} proto {proto}")?;
            return Ok(());
        }
        self.0.insert(number);
        write(host, number, number, lines)
    }

    /// Changes a route's source to the address of another number, if there is a route.
    fn borrow_source(
        &self,
        host: (&Host, &Host),
        number: usize,
        other: usize,
        lines: &mut String,
    ) -> Result<()> {
        match self.0.contains(&number) {
            true => write(host, number, other, lines),
            false => Ok(()),
        }
    }

    fn own_sources(&self, host: (&Host, &Host), lines: &mut String) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|number| write(host, *number, *number, lines))
    }
}

fn write(
    (host, far): (&Host, &Host),
    number: usize,
    source: usize,
    lines: &mut String,
) -> Result<()> {
    let (dst, src, via) = (far.addresses[number], host.addresses[source], far.link);
    writeln!(
        lines,
        "route replace {dst}/32 via {via} dev {INTERFACE} proto {BGP} src {src}"
    )?;
    Ok(())
}

/// Carries out lines for `ip`, in one process.
fn batch(host: &Host, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = host.netns.spawn(&mut ip)?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(lines.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "ip -batch: {status}");
    Ok(())
}

fn seeded() -> Result<Rng> {
    let seed = match std::env::var("DZ_SEED") {
        Ok(seed) => seed.parse().context("DZ_SEED")?,
        Err(_) => monotonic_ns(),
    };
    println!("DZ_SEED={seed}");
    note("order", &format!("DZ_SEED={seed} replays it"));
    Ok(Rng::new(seed, 0))
}

/// Waits until each host has exactly the sessions of its routes, which lead to these numbers of the
/// other one's addresses, each from ours of that number: Up where the other host has its route, and
/// Down where it has not.
fn settled(hosts: &Hosts, agents: [&Agent; 2], routes: [&BTreeSet<usize>; 2]) -> Result<()> {
    let ends = [
        (0, &hosts.here, &hosts.there),
        (1, &hosts.there, &hosts.here),
    ];
    for (end, host, far) in ends {
        let (ours, theirs) = (routes[end], routes[1 - end]);
        eventually(PATIENCE, &format!("sessions with {ours:?}"), || {
            let found = entries(agents[end].home(), far)?;
            let with: BTreeSet<_> = found.iter().map(|(number, _)| *number).collect();
            ensure!(with == *ours && found.len() == ours.len(), "with {with:?}");
            for (number, entry) in found {
                let expected = match theirs.contains(&number) {
                    true => State::Up,
                    false => State::Down,
                };
                let (state, local) = (entry.session.state, Ipv4Addr::from(entry.key.local));
                ensure!(state == expected, "{number}: {state:?}, not {expected:?}");
                ensure!(local == host.addresses[number], "{number} from {local}");
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}
