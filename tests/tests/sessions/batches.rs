//! Batches of peers from files and standard input: all of them or, refused, none.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_tests::bed::{self, Bed, HERE, INTERFACE};
use dz_tests::harness::Test;
use tempfile::NamedTempFile;

use crate::needs::NEEDS;

const INTERVAL_MS: u32 = 1_000;

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("batches::file_and_stdin", &NEEDS, file_and_stdin),
        Test::new("batches::all_or_none", &NEEDS, all_or_none),
        Test::new("batches::ten_thousand", &NEEDS, ten_thousand),
    ]
}

fn peer(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 6, high, low)
}

/// Lines in both forms.
fn batch(peers: u16) -> String {
    let mut text = "# a batch\n\n".to_owned();
    for number in 1..=peers {
        let peer = peer(number);
        text += &if number % 2 == 0 {
            format!("{peer} local {HERE} interface {INTERFACE} detect-mult 5 # text\n")
        } else {
            format!("{{\"peer\": \"{peer}\", \"local\": \"{HERE}\", \"detect_mult\": 5}}\n")
        };
    }
    text
}

/// How it ended, with what it said.
fn ended(output: &Output, code: i32) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{}: {said}",
        output.status
    );
    Ok(said)
}

fn file_and_stdin() -> Result<()> {
    let bed = Bed::new("batch", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let file = NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    fs::write(file.path(), batch(100))?;
    // An argument and a file together.
    let (extra, here) = (peer(101).to_string(), HERE.to_string());
    let words = ["connect", &extra, "--file", &path, "--local", &here];
    let said = agent.cli(&words)?;
    ensure!(said.lines().count() == 101, "{said}");
    let entries = bed::entries(agent.home())?;
    ensure!(entries.len() == 101, "{} sessions", entries.len());
    let of_file = entries
        .iter()
        .filter(|entry| entry.session.timers.detect_mult == 5);
    ensure!(of_file.count() == 100);
    // Once more changes nothing.
    agent.cli(&words)?;
    ensure!(bed::entries(agent.home())?.len() == 101);

    let text: String = (1..=100)
        .map(|number| format!("{}\n", peer(number)))
        .collect();
    let output = agent
        .home()
        .command_reading(&["disconnect", "--file", "-"], &text)?;
    ended(&output, 0)?;
    let left = bed::entries(agent.home())?;
    ensure!(
        left.len() == 1 && left[0].key.peer == peer(101).octets(),
        "{left:?}"
    );
    Ok(())
}

fn all_or_none() -> Result<()> {
    let bed = Bed::new("batch", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let home = agent.home();
    bed::connect(&agent)?;
    let unchanged = || {
        let entries = bed::entries(home)?;
        ensure!(entries.len() == 1, "{} sessions", entries.len());
        anyhow::Ok(())
    };
    let connect = ["connect", "--file", "-"];

    // Two lines of comment come first.
    let text = batch(3)
        + &format!(
            "10.6.9.1 local 127.0.0.1\n{HERE} local {HERE}\n10.6.9.2 local {HERE} speed 9\n"
        );
    let said = ended(&home.command_reading(&connect, &text)?, 2)?;
    for fault in ["line 6: ", "line 7: ", "line 8: \"speed\""] {
        ensure!(said.contains(fault), "no {fault:?} in {said}");
    }
    ensure!(said.matches("line ").count() == 3, "{said}");
    unchanged()?;

    let there = bed::THERE;
    let text = batch(3)
        + &format!("10.6.9.1 local 10.1.2.3\n{there} local {HERE} detect-mult 9\n")
        + &format!("10.6.9.2 local {HERE} interface eth9\n");
    let said = ended(&home.command_reading(&connect, &text)?, 8)?;
    for fault in [
        "line 6: peer 10.6.9.1: 10.1.2.3 is not an address",
        "line 7: peer 169.254.7.1: connected already",
        "line 8: peer 10.6.9.2: eth9 is not served",
    ] {
        ensure!(said.contains(fault), "no {fault:?} in {said}");
    }
    unchanged()?;

    let text = format!("{there}\n10.6.9.1\n10.6.9.2\n");
    let said = ended(
        &home.command_reading(&["disconnect", "--file", "-"], &text)?,
        8,
    )?;
    for fault in [
        "line 2: peer 10.6.9.1: not connected",
        "line 3: peer 10.6.9.2: not",
    ] {
        ensure!(said.contains(fault), "no {fault:?} in {said}");
    }
    unchanged()
}

fn ten_thousand() -> Result<()> {
    const PEERS: u16 = 10_000;
    let bed = Bed::new("batch", Duration::ZERO)?;
    let agent = bed.agent(INTERVAL_MS)?;
    let text = batch(PEERS);
    for (word, left) in [("connect", usize::from(PEERS)), ("disconnect", 0)] {
        let started = std::time::Instant::now();
        let words = [word, "--interface", INTERFACE, "--file", "-"];
        ended(&agent.home().command_reading(&words, &text)?, 0)?;
        println!("{word} of {PEERS}: {:?}", started.elapsed());
        let entries = bed::entries(agent.home())?.len();
        ensure!(entries == left, "{entries} sessions after {word}");
    }
    Ok(())
}
