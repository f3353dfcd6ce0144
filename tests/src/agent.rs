//! The agent as its users run it: a process with a command line.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use dz_agent::api::Client;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::bpffs;
use crate::faults::{self, Faults};
use crate::injector::{Call, Fault, Injector};
use crate::netns::Netns;
use crate::process::Process;
use crate::program::program_with_faults;
use crate::rights;
use crate::wait::eventually;

pub use crate::program::program;

/// For what the agent does at once, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What outlives an agent's process: pins, state and the place of its socket. Several agents, one
/// after the other, can live in it; it is removed on drop.
#[derive(Debug)]
pub struct Home {
    pins: bpffs::Directory,
    pin_dir: PathBuf,
    files: TempDir,
}

impl Home {
    /// Makes an empty one.
    ///
    /// # Errors
    /// No BPF file system, or no privilege.
    pub fn new() -> anyhow::Result<Self> {
        let pins = bpffs::Directory::new("agent")?;
        Ok(Self {
            pin_dir: pins.path().to_owned(),
            pins,
            files: tempfile::tempdir()?,
        })
    }

    /// Makes an empty one whose pin directory does not exist yet, in a folder of its own, where
    /// other people may have pins, too.
    ///
    /// # Errors
    /// No BPF file system, or no privilege.
    pub fn nested() -> anyhow::Result<Self> {
        let mut home = Self::new()?;
        home.pin_dir = home.pins.path().join("ours");
        Ok(home)
    }

    /// The agent's `--pin-dir`.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The agent's `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.files.path().join("state")
    }

    /// The agent's `--socket`.
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("agent.sock")
    }

    /// The faults of an agent with fault hooks that lives here.
    ///
    /// # Errors
    /// Their folder cannot be made.
    pub fn faults(&self) -> anyhow::Result<Faults> {
        Faults::new(self.files.path().join("faults"))
    }

    /// Runs one of the agent's commands against the agent that lives here.
    ///
    /// # Errors
    /// The program cannot be started. What it returns is in the output.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> anyhow::Result<Output> {
        let mut command = Command::new(program()?);
        command.arg("--socket").arg(self.socket()).args(words);
        command.output().context("running dz-agent")
    }

    /// The same, with something to read on its standard input.
    ///
    /// # Errors
    /// The program cannot be started, or ends before it has read everything.
    pub fn command_reading(&self, words: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut command = Command::new(program()?);
        command.arg("--socket").arg(self.socket()).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        child.wait_with_output().context("running dz-agent")
    }
}

/// A running agent. Killed on drop; its log is shown if the test fails.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    home: Home,
}

impl Agent {
    /// Starts `dz-agent run` inside the namespace with these arguments (`--interface` among them)
    /// and with a home of its own, and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn start(netns: &Netns, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(Home::new()?, netns, arguments)
    }

    /// Starts it in a home where another one may have lived.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn start_in(home: Home, netns: &Netns, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut agent = Self::spawn_in(home, netns, arguments)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it through another program (`setpriv`, say), and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn start_by(wrapper: &[&str], netns: &Netns, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut agent = Self::spawn_by(wrapper, Home::new()?, netns, arguments)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// The same in a home, without waiting.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_by(
        wrapper: &[&str],
        home: Home,
        netns: &Netns,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let (first, rest) = wrapper.split_first().context("a wrapper")?;
        let mut command = Command::new(first);
        command.args(rest).arg(program()?);
        Self::spawn_program(command, home, netns, arguments)
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_in(home: Home, netns: &Netns, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn_program(Command::new(program()?), home, netns, arguments)
    }

    /// Starts one with fault hooks in a home, whether or not any fault is set there at present, and
    /// waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn start_with_faults(
        home: Home,
        netns: &Netns,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut agent = Self::spawn_with_faults(home, netns, arguments)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_with_faults(
        home: Home,
        netns: &Netns,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program_with_faults()?);
        command.env(faults::VARIABLE, home.faults()?.folder());
        Self::spawn_program(command, home, netns, arguments)
    }

    /// Starts it with one of its system calls hit by the fault, or with all of them written down.
    ///
    /// # Errors
    /// The program cannot be started, or the kernel cannot ask about calls.
    pub fn spawn_injected(
        home: Home,
        netns: &Netns,
        arguments: &[&str],
        fault: Option<(Call, Fault)>,
    ) -> anyhow::Result<(Self, Injector)> {
        let mut command = Command::new(program()?);
        command.arg("run");
        prepare(&mut command, &home, arguments);
        let title = title(netns, arguments);
        let spawn = |command: &mut Command| Injector::spawn(netns, command, fault);
        let (process, injector) = Process::spawn_by(spawn, &mut command, title)?;
        Ok((Self { process, home }, injector))
    }

    fn spawn_program(
        command: Command,
        home: Home,
        netns: &Netns,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = rights::started(command)?;
        prepare(&mut command, &home, arguments);
        let process = Process::spawn(netns, &mut command, title(netns, arguments))?;
        Ok(Self { process, home })
    }

    /// Waits until it answers on its socket.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        eventually(PATIENCE, "an agent that answers", || {
            if let Some(status) = self.process.ended()? {
                return Ok(Err(anyhow!("dz-agent run has ended: {status}")));
            }
            let output = self.home.command(&["sessions", "--json"])?;
            if output.status.success() {
                Ok(Ok(()))
            } else {
                Err(said(&output))
            }
        })?
    }

    /// Runs one of its commands that is to succeed, and returns what it prints.
    ///
    /// # Errors
    /// The command fails; the message has its words.
    pub fn cli(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.home.command(words)?;
        if !output.status.success() {
            bail!("dz-agent {}: {:#}", words.join(" "), said(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs one of its commands that prints JSON.
    ///
    /// # Errors
    /// The command fails, or prints something else.
    pub fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.cli(words)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// What it answers to `GET path` on its socket, without the cost of a process: for tests that
    /// ask hundreds of times.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = Client::new(&self.home.socket());
        runtime
            .block_on(client.get(path))
            .map_err(|failure| failure.error.context(format!("GET {path}")))
    }

    /// Where it keeps pins, state and socket.
    pub const fn home(&self) -> &Home {
        &self.home
    }

    /// Its process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it with SIGKILL, unless it has ended by itself, and returns its home: as after a crash.
    ///
    /// # Errors
    /// It is not to be killed.
    pub fn crash(mut self) -> anyhow::Result<Home> {
        if self.process.ended()?.is_none() {
            self.process.signal(Signal::SIGKILL)?;
        }
        self.process.wait()?;
        Ok(self.home)
    }

    /// Sends it a signal that ends it, waits for the end and returns its home.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn end(mut self, signal: Signal) -> anyhow::Result<Home> {
        self.process.signal(signal)?;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("dz-agent ended with {status} on {signal}");
        }
        Ok(self.home)
    }
}

fn prepare(command: &mut Command, home: &Home, arguments: &[&str]) {
    command.arg("--socket").arg(home.socket());
    command.arg("--pin-dir").arg(home.pin_dir());
    command.arg("--state-dir").arg(home.state_dir());
    command.args(arguments);
}

fn title(netns: &Netns, arguments: &[&str]) -> String {
    let arguments = arguments.join(" ");
    format!("log of dz-agent {arguments} in {}", netns.name())
}

fn said(output: &Output) -> anyhow::Error {
    let text = String::from_utf8_lossy(&output.stderr);
    anyhow!("{}: {}", output.status, text.trim())
}
