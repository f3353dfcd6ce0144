//! The demo: two hosts, which are network namespaces here, keep a session with each other, and
//! every claim is checked before it is shown.

mod agent;
mod console;
mod host;
mod interrupt;
mod observe;
mod parts;
mod stage;
mod steps;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use crate::apt;
use crate::test_suite::{machine, programs};
use console::Console;
use interrupt::{Interrupt, Interrupted};
use parts::Demo;

/// What the shown commands need.
const PROGRAMS: [&str; 5] = ["bpftool", "curl", "ip", "ping", "tcpdump"];

/// Runs it. A claim that does not hold, or an interruption, is no error but an exit code.
///
/// # Errors
/// It cannot start: no privilege, or something is missing or does not build.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    ensure!(
        apt::is_root(),
        "run the demo as root: it makes network namespaces and loads kernel programs"
    );
    machine::require(&PROGRAMS)?;
    machine::require_promtool()?;
    let path = path_with_agent()?;
    // From here on there is something to clean up.
    let interrupt = Interrupt::install()?;
    let prefix = format!("dz-demo-{}", std::process::id());
    let mut demo = Demo::new(&prefix, Console::new(path, interrupt));
    let result = play(&mut demo);
    if let Err(error) = &result
        && !error.is::<Interrupted>()
    {
        demo.show_logs();
    }
    Ok(demo.end(result))
}

/// The path on which the shown commands find `dz-agent` and everything else.
fn path_with_agent() -> anyhow::Result<OsString> {
    let agent = programs::build_agent()?;
    let folder = agent.parent().context("dz-agent without a folder")?;
    let rest = machine::path()?;
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&rest));
    println!("dz-agent is {}", agent.display());
    Ok(std::env::join_paths(folders)?)
}

/// Takes every step, until a claim does not hold or somebody interrupts.
fn play(demo: &mut Demo) -> anyhow::Result<()> {
    for (number, step) in steps::ALL.iter().enumerate() {
        let number = number + 1;
        let in_step = || format!("step {number} ({})", step.title);
        demo.console
            .heading(number, step.title)
            .with_context(in_step)?;
        (step.run)(demo).map_err(|error| {
            if error.is::<Interrupted>() {
                error
            } else {
                error.context(in_step())
            }
        })?;
    }
    Ok(())
}
