//! The file of peers, read again: what it must be, and what needs `--force`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_tests::agent::Agent;
use dz_tests::bed::{self, Bed, HERE, INTERFACE, PATIENCE};
use dz_tests::harness::Test;
use dz_tests::wait::eventually;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::needs::NEEDS;

const PEERS: usize = 12;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("reload::most_peers_need_force", &NEEDS, needs_force),
        Test::new("reload::only_regular_files", &NEEDS, only_regular),
    ]
}

fn write(file: &Path, peers: usize) -> Result<()> {
    let line = |last: usize| format!("10.9.0.{last} local {HERE}\n");
    let lines: String = (1..=peers).map(line).collect();
    // A mark that some editors put there.
    fs::write(file, format!("\u{feff}{lines}"))?;
    Ok(())
}

fn start(bed: &Bed, file: &Path) -> Result<Agent> {
    write(file, PEERS)?;
    let path = file.to_str().context("UTF-8")?;
    let agent = Agent::start(&bed.here, &["--interface", INTERFACE, "--peers", path])?;
    until(&agent, PEERS)?;
    Ok(agent)
}

fn until(agent: &Agent, count: usize) -> Result<()> {
    eventually(PATIENCE, "so many sessions", || {
        let sessions = bed::entries(agent.home())?.len();
        ensure!(sessions == count, "{sessions}, not {count}");
        anyhow::Ok(())
    })
}

/// What the refusal of a reload says.
fn refusal(agent: &Agent) -> Result<String> {
    let output = agent.home().command(&["reload"])?;
    ensure!(output.status.code() == Some(8), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn needs_force() -> Result<()> {
    let bed = Bed::new("reload", Duration::ZERO)?;
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let mut agent = start(&bed, &file)?;
    for (left, why) in [(0, "no line names a peer"), (5, "7 of 12 peers")] {
        write(&file, left)?;
        let said = refusal(&agent)?;
        ensure!(said.contains(why) && said.contains("--force"), "{said}");
    }
    fs::write(
        &file,
        format!("10.9.0.1 local {HERE}\nexclude 10.0.0.0/8\n"),
    )?;
    let said = refusal(&agent)?;
    ensure!(said.contains("excluded"), "{said}");
    write(&file, 5)?;
    agent.process().signal(Signal::SIGHUP)?;
    let wanted = "7 of 12 peers would be given up: nothing is changed";
    eventually(PATIENCE, "the reason in the log, twice", || {
        let log = agent.process().log();
        ensure!(log.matches(wanted).count() == 2, "{log}");
        anyhow::Ok(())
    })?;
    until(&agent, PEERS)?;
    let said = agent.cli(&["reload", "--force"])?;
    ensure!(
        said == "peers of the file: 5; added 0, changed 0, removed 7\n",
        "{said}"
    );
    until(&agent, 5)?;
    // Of few peers any number may go.
    write(&file, 1)?;
    agent.cli(&["reload"])?;
    until(&agent, 1)
}

fn only_regular() -> Result<()> {
    let bed = Bed::new("regular", Duration::ZERO)?;
    let files = tempfile::tempdir()?;
    let file = files.path().join("peers");
    let agent = start(&bed, &file)?;
    fs::remove_file(&file)?;
    mkfifo(&file, Mode::S_IRWXU)?;
    let said = refusal(&agent)?;
    ensure!(said.contains("no regular file"), "{said}");
    fs::remove_file(&file)?;
    std::os::unix::fs::symlink("/dev/zero", &file)?;
    let said = refusal(&agent)?;
    ensure!(said.contains("no regular file"), "{said}");
    fs::remove_file(&file)?;
    let said = refusal(&agent)?;
    ensure!(said.contains("No such file"), "{said}");
    fs::File::create(&file)?.set_len(1 << 40)?;
    let said = refusal(&agent)?;
    ensure!(said.contains("longer than"), "{said}");
    until(&agent, PEERS)
}
