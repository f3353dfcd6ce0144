//! The demo: two hosts, which are network namespaces here, keep a session with each other, and
//! every claim is checked before it is shown.

mod agent;
mod console;
mod host;
mod interrupt;
mod observe;
mod stage;
mod steps;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use crate::apt;
use crate::test_suite::{machine, programs};
use console::Console;
use host::Host;
use interrupt::{Interrupt, Interrupted};
use stage::Stage;

/// What the shown commands need.
const PROGRAMS: [&str; 5] = ["bpftool", "curl", "ip", "ping", "tcpdump"];

/// Everything that a step works with.
struct Demo {
    console: Console,
    /// The host whose agent attaches with TC.
    a: Host,
    /// The host whose agent attaches with generic XDP, and is frozen.
    b: Host,
    stage: Stage,
}

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
    let mut demo = Demo {
        console: Console::new(path, interrupt),
        a: Host::a(&prefix),
        b: Host::b(&prefix),
        stage: Stage::new(&prefix),
    };
    let result = demo.play();
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

impl Demo {
    fn play(&mut self) -> anyhow::Result<()> {
        for (number, step) in steps::ALL.iter().enumerate() {
            let number = number + 1;
            let in_step = || format!("step {number} ({})", step.title);
            self.console
                .heading(number, step.title)
                .with_context(in_step)?;
            (step.run)(self).map_err(|error| {
                if error.is::<Interrupted>() {
                    error
                } else {
                    error.context(in_step())
                }
            })?;
        }
        Ok(())
    }

    fn show_logs(&mut self) {
        for host in [&self.a, &self.b] {
            let log = std::fs::read_to_string(host.log()).unwrap_or_default();
            // Whoever does not read our output any more does not read this either.
            let _ = self.console.block(&format!("log of {}", host.name), &log);
        }
    }

    /// Cleans up, says how it went, and what is left if anything is.
    fn end(self, result: anyhow::Result<()>) -> ExitCode {
        let Self {
            mut console,
            a,
            b,
            stage,
        } = self;
        // Agents first: they withdraw what they hold.
        drop((a, b));
        let left = stage.clear();
        let result = match left {
            left if left.is_empty() => result,
            left => result.and(Err(anyhow::anyhow!("left behind: {}", left.join(", ")))),
        };
        match result {
            Ok(()) => {
                console.last("demo: ok");
                ExitCode::SUCCESS
            }
            Err(error) => match error.downcast_ref::<Interrupted>() {
                Some(interrupted) => {
                    console.last("demo: interrupted; everything is cleaned up");
                    interrupted.exit_code()
                }
                None => {
                    console.last(&format!("demo: FAILED: {error:#}"));
                    ExitCode::FAILURE
                }
            },
        }
    }
}
