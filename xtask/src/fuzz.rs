//! Runs the fuzzers of `fuzz/`, one after the other, on the stable compiler, which `RUSTC_BOOTSTRAP` lets instrument.

use anyhow::ensure;
use xshell::cmd;

use crate::shell::{self, sh};

/// The version of cargo-fuzz that is installed where there is none.
const VERSION: &str = "0.13.2";

/// Which, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fuzzers; all if none is named
    targets: Vec<String>,
    /// For so long each
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Then keep only those inputs in the corpus that add something
    #[arg(long)]
    shrink: bool,
}

/// Runs them.
///
/// # Errors
/// One of them finds something, or cannot be built.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let cargo = shell::cargo();
    if shell::answer(cmd!(sh(), "{cargo} fuzz --version")).is_err() {
        cmd!(
            sh(),
            "{cargo} install --locked --version {VERSION} cargo-fuzz"
        )
        .run()?;
    }
    let known = fuzz(&["list"]).read()?;
    let known: Vec<_> = known.lines().collect();
    for target in &options.targets {
        ensure!(
            known.contains(&target.as_str()),
            "there is no fuzzer {target}; there are: {}",
            known.join(", ")
        );
    }
    let wanted = options.targets.iter().map(String::as_str);
    let wanted: Vec<_> = if options.targets.is_empty() {
        known
    } else {
        wanted.collect()
    };
    let seconds = options.minutes * 60;
    for target in wanted {
        let limit = format!("-max_total_time={seconds}");
        let flags = ["--", &limit, "-print_final_stats=1", "-verbosity=1"];
        fuzz(&["run", "--sanitizer=none", target])
            .args(flags)
            .run()?;
        if options.shrink {
            fuzz(&["cmin", "--sanitizer=none", target]).run()?;
        }
    }
    Ok(())
}

fn fuzz(arguments: &[&str]) -> xshell::Cmd<'static> {
    let cargo = shell::cargo();
    let command = cmd!(sh(), "{cargo} fuzz {arguments...}");
    command.env("RUSTC_BOOTSTRAP", "1")
}
