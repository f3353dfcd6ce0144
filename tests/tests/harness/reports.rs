//! What the harness reports of tests that do not pass: it runs this very program for some that are there
//! only for that.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dz_tests::harness::Requirement::{Root, Tool};
use dz_tests::harness::{Outcome, Test};
use dz_tests::netns::Netns;
use dz_tests::process::Process;
use dz_tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(30);
/// Set where only those tests are there.
const INNER: &str = "DZ_TESTS_INNER";

/// The deadline of a test that hangs: much more than it takes to start a child.
const HANG: Duration = Duration::from_secs(5);

pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("harness::reports", &[], skips_and_failures_are_told_apart),
        Test::new(
            "harness::deadline",
            &[Root],
            what_hangs_fails_and_is_cleared_away,
        ),
    ]
}

pub(super) fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

pub(super) fn inner() -> Vec<Test> {
    vec![
        Test::new("inner::skipped_while_it_runs", &[], || {
            Ok(Outcome::Skip("no luck".to_owned()))
        }),
        Test::new(
            "inner::lacks_a_tool",
            &[Tool("no-such-tool")],
            || -> Result<()> { anyhow::bail!("it must not run") },
        ),
        Test::new("inner::fails", &[], || -> Result<()> {
            anyhow::bail!("cause")
        }),
        Test::new("inner::hang::alone", &[], hang).within(HANG),
        Test::new("inner::hang::beside", &[], hang),
        Test::new("inner::hang::later", &[], || Ok(())),
    ]
}

fn skips_and_failures_are_told_apart() -> Result<()> {
    let report = |name: &str| -> Result<(bool, String)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", name]).env(INNER, "1");
        let output = command.output().context("running this program")?;
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    };
    let (success, text) = report("inner::skipped_while_it_runs")?;
    ensure!(
        success && text.contains("\nSKIPPED inner::skipped_while_it_runs: no luck\n"),
        "{text}"
    );
    ensure!(text.contains("0 passed; 0 failed; 1 ignored"), "{text}");
    let (success, text) = report("inner::lacks_a_tool")?;
    let line = "\nSKIPPED inner::lacks_a_tool: the program no-such-tool is not installed\n";
    ensure!(success && text.contains(line), "{text}");
    let (success, text) = report("inner::fails")?;
    ensure!(
        !success && text.contains("cause") && text.contains("1 failed"),
        "{text}"
    );
    Ok(())
}

/// A test that hangs with a child, beside another, while a third has not begun.
fn what_hangs_fails_and_is_cleared_away() -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["inner::hang", "--test-threads=2"])
        .env(INNER, "1");
    let begun = Instant::now();
    let output = command.output().context("running this program")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.code() == Some(101),
        "{}: {text}",
        output.status
    );
    ensure!(begun.elapsed() < 20 * HANG, "after {:?}", begun.elapsed());
    for line in [
        "\ntest inner::hang::alone ... FAILED\n",
        "\n---- inner::hang::alone ----\nnot over after 5s, its deadline\n",
        "\nSKIPPED inner::hang::beside: cut short, because inner::hang::alone hangs\n",
        "\nSKIPPED inner::hang::later: not begun, because inner::hang::alone hangs\n",
        "\ntest result: FAILED. 0 passed; 1 failed; 2 ignored;",
        "---- the child, so far ----\nhere\n",
        " sleep 601\n",
    ] {
        ensure!(text.contains(line), "no {line:?} in: {text}");
    }
    let left = text.lines().find_map(|line| line.strip_prefix("killed: "));
    let pid = left
        .and_then(|left| left.split(' ').next())
        .context("no process")?;
    eventually(PATIENCE, "the end of the child", || {
        // Nobody may have waited for it yet.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty().then_some(())
    })?;
    let names = Command::new("ip").args(["netns", "list"]).output()?;
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    ensure!(!names.contains("-hang"), "left: {names}");
    Ok(())
}

/// A test that never ends, with a child in a namespace of its own.
fn hang() -> Result<()> {
    let netns = Netns::new("hang")?;
    let mut command = Command::new("sh");
    command.args(["-c", "echo here; exec sleep 601"]);
    let _child = Process::spawn(&netns, &mut command, "the child".to_owned())?;
    loop {
        std::thread::park();
    }
}
