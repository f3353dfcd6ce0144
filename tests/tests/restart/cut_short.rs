//! A takeover from another map layout that is cut short: after every step of it the agent dies, what
//! is there goes on serving, and the next start goes on. The steps are those of the table in
//! `datapath/upgrade/mod.rs`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_tests::agent::{Agent, Home, program};
use dz_tests::attached;
use dz_tests::bed::INTERFACE;
use dz_tests::harness::Test;
use dz_tests::machine;
use dz_tests::wait::eventually;

use crate::crowd::{Crowd, MULTIPLIER, PATIENCE, SECOND};
use crate::layout_1;
use crate::needs::NEEDS;
use crate::upgrade::earlier;
use crate::witness::{Witness, seen};

const PEERS: u16 = 20;
/// More than there are.
const STEPS: u32 = 60;
/// A takeover for each step, a minute altogether, or two on a busy machine.
const EVERY_STEP: Duration = Duration::from_secs(1_200);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("cut_short::after_every_step", &NEEDS, every_step).within(EVERY_STEP),
        Test::new("cut_short::purged", &NEEDS, purged),
    ]
}

fn every_step() -> Result<()> {
    // A round takes most of a minute on an emulated processor.
    let (stride, least) = if machine::is_emulated() {
        (3, 4)
    } else {
        (1, 10)
    };
    let (mut step, mut rounds) = (0, 0);
    while let Some(moving) = dies_at(step)? {
        ensure!(step < STEPS, "it dies again and again");
        rounds += 1;
        // The pins are moved one by one, and one is like the other.
        step += if moving { 4 * stride } else { stride };
    }
    println!("died in {rounds} places");
    // After the folder, the maps, three copies, a renaming, two links, a renaming; and some pins.
    ensure!(
        rounds >= least && step > 20,
        "{rounds} places, {step} steps"
    );
    Ok(())
}

/// The command line of an agent for both.
fn arguments() -> [&'static str; 10] {
    let interval = if machine::is_emulated() {
        "1s"
    } else {
        "300ms"
    };
    let [tx, rx] = ["--tx-interval", "--rx-interval"];
    let interface = "--interface";
    let [multiplier, ten] = MULTIPLIER;
    [
        interface, INTERFACE, interface, SECOND, tx, interval, rx, interval, multiplier, ten,
    ]
}

/// Whether there are so many steps, and whether pins were being moved then.
fn dies_at(step: u32) -> Result<Option<bool>> {
    let one = Crowd::with("cut", PEERS)?;
    let two = one.beside(PEERS)?;
    let crowds = [&one, &two];
    let home = Home::new()?;
    earlier(&crowds, &home)?;
    let before = layout_1::seen(&home)?;
    let witnesses = crowds.map(|crowd| Witness::new(crowd, before.clone()));

    let mut agent = agent_that_dies_at(step, home, &crowds)?;
    let status = eventually(PATIENCE, "an agent that dies or answers", || {
        match agent.process().ended() {
            Ok(Some(status)) => Some(Some(status)),
            _ => agent.cli(&["sessions"]).is_ok().then_some(None),
        }
    })?;
    let found = folders(agent.home())?;
    println!("{step} steps: {status:?}, {found:?}");
    let home = agent.crash()?;
    let [first, second] = witnesses;
    let witnesses = [first?, second?];
    for witness in &witnesses {
        witness.until_answered(2)?;
    }
    let agent = Agent::start_in(home, &one.bed.here, &arguments())?;
    for witness in witnesses {
        witness.until_heard(agent.home(), 2)?;
        witness.nothing_happened(agent.home())?;
    }
    let sessions = seen(agent.home())?.len();
    ensure!(sessions == 2 * usize::from(PEERS), "{sessions} sessions");
    let left = folders(agent.home())?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(status.map(|_| found.contains(&"takeover_move".to_owned())))
}

fn agent_that_dies_at(step: u32, home: Home, crowds: &[&Crowd]) -> Result<Agent> {
    home.faults()?.die_in_takeover(step)?;
    let here = &crowds[0].bed.here;
    Agent::spawn_with_faults(home, here, &arguments())
}

/// What it leaves goes with everything else.
fn purged() -> Result<()> {
    // After the first of two links.
    const STEP: u32 = 6;
    let one = Crowd::with("purge", PEERS)?;
    let two = one.beside(PEERS)?;
    let home = Home::new()?;
    earlier(&[&one, &two], &home)?;
    let mut agent = agent_that_dies_at(STEP, home, &[&one, &two])?;
    agent.process().wait()?;
    let home = agent.crash()?;
    ensure!(
        folders(&home)? == ["takeover_swap"],
        "{:?}",
        folders(&home)?
    );
    let mut command = Command::new(program()?);
    command.arg("purge").arg("--pin-dir").arg(home.pin_dir());
    let output = one.bed.here.output(&mut command)?;
    ensure!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("removed unfinished takeover"), "{said}");
    ensure!(said.contains("removed pin directory"), "{said}");
    ensure!(!home.pin_dir().exists());
    for crowd in [&one, &two] {
        ensure!(crowd.routes()? == 0);
        ensure!(attached::programs(&crowd.bed.here, crowd.interface)? == 0);
    }
    Ok(())
}

/// Folders in the pin directory.
fn folders(home: &Home) -> Result<Vec<String>> {
    let files = fs::read_dir(home.pin_dir())?.flatten();
    let folders = files.filter(|file| file.path().is_dir());
    Ok(folders
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect())
}
