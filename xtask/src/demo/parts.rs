//! What the demo is made of, and how it ends.

use std::process::ExitCode;

use super::console::Console;
use super::host::Host;
use super::interrupt::Interrupted;
use super::stage::Stage;

/// Everything that a step works with.
pub(super) struct Demo {
    pub(super) console: Console,
    /// The host whose agent attaches with TC.
    pub(super) a: Host,
    /// The host whose agent attaches with generic XDP, and is frozen.
    pub(super) b: Host,
    pub(super) stage: Stage,
}

impl Demo {
    /// Both hosts and what is around them, with names that begin with `prefix`; nothing is made yet.
    pub(super) fn new(prefix: &str, console: Console) -> Self {
        Self {
            console,
            a: Host::a(prefix),
            b: Host::b(prefix),
            stage: Stage::new(prefix),
        }
    }

    /// Shows what both agents have logged.
    pub(super) fn show_logs(&mut self) {
        for host in [&self.a, &self.b] {
            let log = std::fs::read_to_string(host.log()).unwrap_or_default();
            // Whoever does not read our output any more does not read this either.
            let _ = self.console.block(&format!("log of {}", host.name), &log);
        }
    }

    /// Cleans up, says how it went, and what is left if anything is.
    pub(super) fn end(self, result: anyhow::Result<()>) -> ExitCode {
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
