//! What the reader sees: plain words, commands as one could type them, and what they really print.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::interrupt::Interrupt;

/// Longer than anything shown takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(25);
/// What a command still gets when we are interrupted, so that `ip` is not stopped half way.
const GRACE: Duration = Duration::from_secs(1);
/// Before every line of a command and of its output.
const INDENT: &str = "  ";

/// Standard output, and the running of what is shown there.
#[derive(Debug)]
pub(super) struct Console {
    path: OsString,
    interrupt: Interrupt,
    /// The last thing shown was a command that printed nothing: the next one follows right below.
    quiet: bool,
}

/// How much of an output is shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Show {
    /// All of it.
    All,
    /// The first lines, and how many more there are.
    First(usize),
}

/// A program in the background, killed on drop.
#[derive(Debug)]
pub(super) struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Console {
    /// Commands are looked up on this path.
    pub(super) fn new(path: OsString, interrupt: Interrupt) -> Self {
        Self {
            path,
            interrupt,
            quiet: false,
        }
    }

    /// # Errors
    /// Nobody reads our output any more.
    pub(super) fn heading(&mut self, number: usize, title: &str) -> anyhow::Result<()> {
        self.print(&format!("\n==== {number}. {title}\n"))
    }

    /// Plain words.
    ///
    /// # Errors
    /// Nobody reads our output any more.
    pub(super) fn say(&mut self, words: &str) -> anyhow::Result<()> {
        self.print(&format!("\n{words}\n"))
    }

    /// A command line that is not run by a shell.
    ///
    /// # Errors
    /// Nobody reads our output any more.
    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        let gap = if self.quiet { "" } else { "\n" };
        self.print(&format!("{gap}{INDENT}$ {line}\n"))?;
        self.quiet = true;
        Ok(())
    }

    /// Something that is no command's output.
    ///
    /// # Errors
    /// Nobody reads our output any more.
    pub(super) fn block(&mut self, title: &str, text: &str) -> anyhow::Result<()> {
        self.print(&format!("\n---- {title}\n{text}----\n"))
    }

    /// The last line.
    pub(super) fn last(&mut self, line: &str) {
        if self.print(&format!("\n{line}\n")).is_err() {
            eprintln!("{line}");
        }
    }

    /// Shows a command and its output, and returns the output.
    ///
    /// # Errors
    /// It fails, takes too long, or we are interrupted.
    pub(super) fn show(&mut self, line: &str) -> anyhow::Result<String> {
        self.show_part(line, Show::All)
    }

    /// Shows a command and a part of its output, and returns all of the output.
    ///
    /// # Errors
    /// As [`Console::show`].
    pub(super) fn show_part(&mut self, line: &str, part: Show) -> anyhow::Result<String> {
        let (succeeded, text) = self.show_any(line, part)?;
        if !succeeded {
            bail!("`{line}` failed");
        }
        Ok(text)
    }

    /// Shows a command that is to fail.
    ///
    /// # Errors
    /// It succeeds, takes too long, or we are interrupted.
    pub(super) fn show_failing(&mut self, line: &str) -> anyhow::Result<String> {
        let (succeeded, text) = self.show_any(line, Show::All)?;
        if succeeded {
            bail!("`{line}` succeeded");
        }
        Ok(text)
    }

    fn show_any(&mut self, line: &str, part: Show) -> anyhow::Result<(bool, String)> {
        self.line(line)?;
        // Both streams in their order, as in a terminal.
        let (succeeded, text) = self.run(&format!("{{ {line}\n}} 2>&1"))?;
        let limit = match part {
            Show::All => usize::MAX,
            Show::First(limit) => limit,
        };
        let mut shown = String::new();
        for line in text.lines().take(limit) {
            shown.push_str(format!("{INDENT}{line}").trim_end());
            shown.push('\n');
        }
        let more = text.lines().count().saturating_sub(limit);
        if more > 0 {
            shown.push_str(&format!("{INDENT}[{more} more lines, not shown here]\n"));
        }
        if !shown.is_empty() {
            self.print(&shown)?;
        }
        Ok((succeeded, text))
    }

    /// What a command prints that is not shown.
    ///
    /// # Errors
    /// It fails, takes too long, or we are interrupted.
    pub(super) fn read(&self, line: &str) -> anyhow::Result<String> {
        match self.run(line)? {
            (true, text) => Ok(text),
            (false, text) => bail!("`{line}` failed: {}", text.trim()),
        }
    }

    /// Starts a program that stays, away from the terminal's Ctrl-C.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn spawn(&self, line: &str, output: Stdio) -> anyhow::Result<Child> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        self.detached(command)
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))
    }

    /// Starts a program that both prints and complains into a file, until the returned value is
    /// dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn background(&self, line: &str, output: File) -> anyhow::Result<Background> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        let stdout = output.try_clone()?;
        let child = self.detached(command).stdout(stdout).stderr(output).spawn();
        let child = child.with_context(|| format!("cannot start `{line}`"))?;
        Ok(Background(child))
    }

    /// Waits until there is something to be seen. An error ends the waiting.
    ///
    /// # Errors
    /// It is not there in time (the message says what was to come), or we are interrupted.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.interrupt.check()?;
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
            }
            thread::sleep(PAUSE);
        }
    }

    fn print(&mut self, text: &str) -> anyhow::Result<()> {
        self.quiet = false;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("standard output")
    }

    fn detached(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            // The reader's settings for an agent of his own.
            if name.to_string_lossy().starts_with("DZ_AGENT_") {
                command.env_remove(name);
            }
        }
        command
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            // Of its own group: Ctrl-C is for us, who then clean up in order.
            .process_group(0);
        command
    }

    /// Runs a shell line and returns whether it succeeded, and its standard output.
    fn run(&self, line: &str) -> anyhow::Result<(bool, String)> {
        self.interrupt.check()?;
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        let mut child = self
            .detached(command)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start sh")?;
        let text = self.collect(&mut child);
        if text.is_err() {
            // The whole line, pipes included. It may have ended by itself meanwhile.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        }
        let status = child.wait()?;
        let text = text.with_context(|| format!("`{line}`"))?;
        Ok((status.success(), text))
    }

    fn collect(&self, child: &mut Child) -> anyhow::Result<String> {
        let mut output = child.stdout.take().context("no output")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let result = output.read_to_end(&mut text).map(|_| text);
            // If nobody waits any more, nobody wants it.
            let _ = sender.send(result);
        });
        let mut deadline = Instant::now() + PATIENCE;
        let mut interrupted = Ok(());
        loop {
            match receiver.recv_timeout(PAUSE) {
                Ok(text) => {
                    interrupted?;
                    return Ok(String::from_utf8_lossy(&text?).into_owned());
                }
                Err(RecvTimeoutError::Disconnected) => bail!("its output cannot be read"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if interrupted.is_ok() {
                interrupted = self.interrupt.check();
                if interrupted.is_err() {
                    deadline = deadline.min(Instant::now() + GRACE);
                }
            }
            if Instant::now() >= deadline {
                interrupted?;
                bail!("does not end");
            }
        }
    }
}
