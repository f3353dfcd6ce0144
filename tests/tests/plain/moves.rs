//! The address moves from one NIC to another, and sessions do not notice; it goes, and they are parked
//! until it is back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;

use crate::scene::{GATEWAY, NEEDS, NICS, PEER, PEERS, PUBLIC, Scene, said};

/// For so long after a regular full check there is no other one.
const NO_CHECK: Duration = Duration::from_secs(9);

/// How often the address moves.
const MOVES: usize = 10;
/// What a move may take: twice the agent's `SETTLE`.
const AT_ONCE: Duration = Duration::from_millis(10);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("moves::new_one_first", &NEEDS, new_one_first),
        Test::new("moves::old_one_first", &NEEDS, old_one_first),
        Test::new("moves::gone_and_back", &NEEDS, gone_and_back),
        Test::new("moves::taken_over", &NEEDS, taken_over),
        Test::new("moves::others_come_and_go", &NEEDS, others_come_and_go),
    ]
}

fn new_one_first() -> Result<()> {
    // However long it takes: this host holds it all the time.
    moved(Duration::MAX, |from, to| {
        format!("address add {PUBLIC}/24 dev {to}\naddress delete {PUBLIC}/24 dev {from}\n")
    })
}

fn old_one_first() -> Result<()> {
    moved(AT_ONCE, |from, to| {
        format!("address delete {PUBLIC}/24 dev {from}\naddress add {PUBLIC}/24 dev {to}\n")
    })
}

/// The session is the same one, and has never been Down. The kernel may have flushed its route with
/// the old address.
fn moved(at_most: Duration, lines: impl Fn(&str, &str) -> String) -> Result<()> {
    let mut scene = Scene::connected("plain-move")?;
    let [mut from, mut to] = NICS;
    let mut judged = 0;
    for _ in 0..MOVES {
        let before = scene.until_up(PEER, PUBLIC)?;
        let begun = Instant::now();
        scene.batch(&lines(from, to))?;
        // On a busy machine the address was gone for so long that it was not moved.
        let moved = begun.elapsed() < at_most;
        scene.full_check()?;
        if moved {
            let after = scene.entry(PEER)?;
            ensure!(after.generation == before.generation, "another session");
            ensure!(after.session.ups == before.session.ups, "{after:?}");
            judged += 1;
        }
        scene.until_route(PEER, &format!("via {GATEWAY} dev {INTERFACE} src {PUBLIC}"))?;
        (from, to) = (to, from);
    }
    println!("{judged} of {MOVES} moves were fast enough to be judged");
    ensure!(judged > 0, "too slow a machine to tell");
    let heard = scene.said(PEER).len();
    eventually(PATIENCE, "it goes on", || {
        ensure!(scene.said(PEER).len() > heard + 5);
        anyhow::Ok(())
    })?;
    scene.until_up(PEER, PUBLIC)?;
    scene.nothing_failed()
}

fn gone_and_back() -> Result<()> {
    let mut scene = Scene::connected("plain-gone")?;
    let regular = scene.regular_check()?;
    scene.ip(&format!("address delete {PUBLIC}/24 dev {}", NICS[0]))?;
    // Not a moment later is there a new session from it, nor a packet.
    let (other, public) = (PEERS[1].to_string(), PUBLIC.to_string());
    let said = scene.refused(&["connect", &other, "--local", &public])?;
    ensure!(said.contains("is not an address of this host"), "{said}");
    ensure!(scene.said(PEERS[1]).is_empty(), "to the other peer");
    scene.until_parked(PEER, &format!("{PUBLIC} is not an address of this host"))?;
    ensure!(!scene.locals()?.contains(&PUBLIC), "{:?}", scene.locals()?);
    let said = scene.said(PEER).len();
    let asked = scene.bed.wire.counts().b_to_a;
    eventually(PATIENCE, "a peer that asks", || {
        ensure!(scene.bed.wire.counts().b_to_a > asked + 5);
        anyhow::Ok(())
    })?;
    let now = scene.said(PEER).len();
    ensure!(
        now == said,
        "{} packets from an address that is gone",
        now - said
    );
    // On whatever interface it comes back; nor has that waited for the next regular check.
    scene.ip(&format!("address add {PUBLIC}/32 dev {}", NICS[1]))?;
    eventually(PATIENCE, "a session again", || scene.entry(PEER))?;
    println!("gone and back in {:?}", regular.elapsed());
    ensure!(regular.elapsed() < NO_CHECK, "{:?}", regular.elapsed());
    scene.until_up(PEER, PUBLIC)?;
    scene.nothing_failed()
}

/// An agent that is killed leaves its sessions to the next one, with the address that is not the
/// tunnel's; and if that goes meanwhile, nothing is said from it.
fn taken_over() -> Result<()> {
    let mut scene = Scene::connected("plain-taken")?;
    let before = scene.entry(PEER)?;
    scene = scene.again(|_, _| Ok(()))?;
    let after = scene.until_up(PEER, PUBLIC)?;
    ensure!(
        (after.generation, after.session.ups) == (before.generation, before.session.ups),
        "{after:?}"
    );
    ensure!(scene.locals()?.contains(&PUBLIC), "{:?}", scene.locals()?);

    let nic = NICS[0];
    let mut before = 0;
    scene = scene.again(|bed, peers| {
        bed.here
            .ip(&format!("address delete {PUBLIC}/24 dev {nic}"))?;
        // The kernel part goes on answering until the next start.
        peers[0].silence();
        before = said(bed, PEER).len();
        Ok(())
    })?;
    scene.until_parked(PEER, &format!("{PUBLIC} is not an address of this host"))?;
    scene.full_check()?;
    ensure!(!scene.locals()?.contains(&PUBLIC), "{:?}", scene.locals()?);
    let more = scene.said(PEER).len() - before;
    // One answer may have been on its way.
    ensure!(more <= 1, "{more} packets from an address that is gone");
    scene.peers[0].resume();
    scene.ip(&format!("address add {PUBLIC}/24 dev {nic}"))?;
    scene.until_up(PEER, PUBLIC)?;
    scene.nothing_failed()
}

/// Addresses that no peer uses change nothing, and have nothing looked at.
fn others_come_and_go() -> Result<()> {
    let scene = Scene::connected("plain-others")?;
    let before = scene.entry(PEER)?;
    let regular = scene.regular_check()?;
    let check = scene.last_check()?;
    let mut rounds = 0;
    for round in 0..4 {
        let line = |verb: &str, n: u32| format!("address {verb} 172.17.{round}.{n}/32 dev nic1\n");
        scene.batch(&(1..=200).map(|n| line("add", n)).collect::<String>())?;
        scene.batch(&(1..=200).map(|n| line("delete", n)).collect::<String>())?;
        let now = scene.last_check()?;
        if regular.elapsed() > NO_CHECK {
            break;
        }
        ensure!(now == check, "{check}, then {now}");
        rounds += 1;
    }
    println!("{rounds} rounds in {:?}", regular.elapsed());
    ensure!(rounds > 0, "too slow a machine to tell");
    let after = scene.entry(PEER)?;
    ensure!(
        (after.generation, after.session.ups) == (before.generation, before.session.ups),
        "{after:?}"
    );
    Ok(())
}
