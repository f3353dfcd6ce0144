//! Builds the agent as it is shipped, measures it, and holds the figures against their goals. The program `dz-bench` of the test
//! harness measures, and lists every bench.

mod machines;
mod row;
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::ensure;
use xshell::cmd;

use crate::apt;
use crate::shell::{self, sh};
use crate::test_suite::{machine, programs};
use crate::vm::kernel::Version;
use row::{Row, rows};

/// Programs that the benches need.
const PROGRAMS: [&str; 4] = ["ip", "ethtool", "iperf3", "bird"];

/// What to measure, and what to do with the figures.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Benches, or parts of them (NAME/PART); all if none is named
    names: Vec<String>,
    /// Print the figures as JSON: an array of {name, value, unit, baseline, ratio, goal, met, …}
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a goal is not met, and name those that are not
    #[arg(long)]
    check: bool,
    /// Only on this machine, not in virtual ones
    #[arg(long)]
    no_vm: bool,
    /// In virtual machines only with this kernel
    #[arg(long, value_enum)]
    kernel: Option<Version>,
}

/// Runs benches and prints their figures.
///
/// # Errors
/// No privilege, something is missing, does not build or cannot be measured. A goal that is not met
/// is no error but an exit code, and only with `--check`.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(
        apt::is_root(),
        "run benches as root: they make network namespaces and load kernel programs"
    );
    machine::require(&PROGRAMS)?;
    let built = programs::build_bench()?;
    let known = list(&built.bench)?;
    let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
    let wanted: Vec<_> = if options.names.is_empty() {
        names.iter().map(|name| (*name, None)).collect()
    } else {
        options.names.iter().map(|name| parts(name)).collect()
    };
    for (name, _) in &wanted {
        ensure!(
            names.contains(name),
            "there is no bench {name}; there are: {}",
            names.join(", ")
        );
    }
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (name, part) in wanted {
        let about = known.iter().find(|known| known.0 == name);
        eprintln!("==== {name}: {}", about.map_or("", |known| &known.1));
        let mut measured = Vec::new();
        // What has been measured in an hour is not lost to what cannot be measured after it.
        if let Err(error) = figures(&built, (name, part), options, &mut measured) {
            eprintln!("{name} cannot be measured: {error:#}");
            failed.push(name);
        }
        if !options.json && !measured.is_empty() {
            table::print(name, &measured);
        }
        rows.extend(measured.into_iter().map(|row| row.of(name)));
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    let missed: Vec<_> = rows.iter().filter(|row| row.met == Some(false)).collect();
    for row in &missed {
        eprintln!("goal not met: {}", row.verdict());
    }
    ensure!(
        failed.is_empty(),
        "not measured, see above: {}",
        failed.join(", ")
    );
    if options.check && !missed.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures one bench, here and, if it has a part for them, in virtual machines.
fn figures(
    built: &programs::Bench,
    (name, part): (&str, Option<&str>),
    options: &Options,
    measured: &mut Vec<Row>,
) -> anyhow::Result<()> {
    measured.extend(measure(built, name, part)?);
    if machines::has_part(name, part) && !options.no_vm {
        measured.extend(machines::measure(built, &PROGRAMS, options.kernel)?);
    }
    Ok(())
}

/// Lists the benches: their names, and one line about each.
fn list(bench: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = shell::answer(cmd!(sh(), "{bench} --list"))?;
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines
        .map(|(name, about)| (name.to_owned(), about.to_owned()))
        .collect())
}

/// Splits the name of a bench from that of its part, if one is named.
fn parts(name: &str) -> (&str, Option<&str>) {
    name.split_once('/')
        .map_or((name, None), |(name, part)| (name, Some(part)))
}

fn measure(built: &programs::Bench, name: &str, part: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let programs::Bench { agent, bench } = built;
    // Its standard error is for people, while it measures.
    let text = cmd!(sh(), "{bench} {name} {part...}")
        .env("DZ_AGENT", agent)
        .env("PATH", machine::path()?)
        .read()?;
    rows(&text)
}
