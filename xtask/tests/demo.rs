//! `cargo xtask demo` from outside: what it ends with, and that nothing of it stays behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_tests::harness::Requirement::{LinkKind, Root};
use dz_tests::harness::{self, Test};
use dz_tests::wait::eventually;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// It may have to build the agent first.
const PATIENCE: Duration = Duration::from_secs(600);

/// A running demo in a process group of its own, as a terminal gives it.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    text: String,
}

impl Demo {
    fn start() -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let mut child = command
            .arg("demo")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        Ok(Self {
            child,
            output: BufReader::new(output),
            text: String::new(),
        })
    }

    /// Reads until a line that contains this.
    fn read_until(&mut self, part: &str) -> Result<()> {
        loop {
            let start = self.text.len();
            let read = self.output.read_line(&mut self.text)?;
            ensure!(read > 0, "the demo ended before {part}:\n{}", self.text);
            if self.text[start..].contains(part) {
                return Ok(());
            }
        }
    }

    /// As a terminal does it: to everybody in the group.
    fn signal(&self, signal: Signal) -> Result<()> {
        killpg(Pid::from_raw(self.child.id().cast_signed()), signal)?;
        Ok(())
    }

    /// Reads to the end.
    fn end(&mut self) -> Result<ExitStatus> {
        self.output.read_to_string(&mut self.text)?;
        let child = &mut self.child;
        eventually(PATIENCE, "the end of the demo", || {
            child.try_wait().ok().flatten()
        })
    }

    fn ended_with(&self, line: &str) -> Result<()> {
        ensure!(self.text.ends_with(&format!("\n{line}\n")), "{}", self.text);
        Ok(())
    }

    /// Namespaces, pins, files and processes that have its name.
    fn left_behind(&self) -> Vec<String> {
        let name = format!("dz-demo-{}", self.child.id());
        let mut left = Vec::new();
        for folder in ["/run/netns", "/sys/fs/bpf", "/run", "/tmp"] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path().display().to_string());
            left.extend(paths.filter(|path| path.contains(&name)));
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&name) {
                left.push(line);
            }
        }
        left
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Let it clean up even if the test has failed half way.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            let _ = self.output.read_to_string(&mut self.text);
            let _ = self.child.wait();
        }
    }
}

fn shows_everything_and_leaves_nothing() -> Result<()> {
    let mut demo = Demo::start()?;
    demo.read_until("ip netns add")?;
    ensure!(
        !demo.left_behind().is_empty(),
        "nothing is found of a demo that runs"
    );
    let status = demo.end()?;
    demo.ended_with("demo: ok")?;
    ensure!(status.success(), "{status}");
    let left = demo.left_behind();
    ensure!(left.is_empty(), "left behind: {}", left.join("\n"));
    Ok(())
}

fn interrupted(at: &str, signal: Signal) -> Result<()> {
    let mut demo = Demo::start()?;
    demo.read_until(at)?;
    demo.signal(signal)?;
    let status = demo.end()?;
    demo.ended_with("demo: interrupted; everything is cleaned up")?;
    ensure!(status.code() == Some(128 + signal as i32), "{status}");
    let left = demo.left_behind();
    ensure!(left.is_empty(), "left behind: {}", left.join("\n"));
    Ok(())
}

/// A claim that does not hold ends it: here, an agent that somebody else kills.
fn says_what_does_not_hold() -> Result<()> {
    let mut demo = Demo::start()?;
    demo.read_until("The wire is cut")?;
    let socket = format!("/run/dz-demo-{}/a.sock", demo.child.id());
    kill_agent(&socket)?;
    let status = demo.end()?;
    ensure!(status.code() == Some(1), "{status}");
    let last = demo.text.trim_end().lines().next_back().unwrap_or_default();
    ensure!(last.starts_with("demo: FAILED: step 9"), "{}", demo.text);
    ensure!(demo.text.contains("---- log of A"), "{}", demo.text);
    let left = demo.left_behind();
    ensure!(left.is_empty(), "left behind: {}", left.join("\n"));
    Ok(())
}

/// Kills the agent whose command line has this socket.
fn kill_agent(socket: &str) -> Result<()> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        let is_agent = words.contains(&socket.as_bytes()) && words.contains(&b"run".as_slice());
        let name = Path::new(&entry.file_name()).display().to_string();
        if let (true, Ok(pid)) = (is_agent, name.parse()) {
            nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            return Ok(());
        }
    }
    anyhow::bail!("no agent with {socket}")
}

fn main() -> ExitCode {
    let needs = [Root, LinkKind("veth"), LinkKind("bridge")];
    harness::run(vec![
        Test::new("runs", &needs, shows_everything_and_leaves_nothing),
        Test::new("interrupted_early", &needs, || {
            interrupted("link add bridge0", Signal::SIGINT)
        }),
        Test::new("terminated_while_an_agent_starts", &needs, || {
            interrupted("run --attach xdp-generic", Signal::SIGTERM)
        }),
        Test::new("interrupted_while_an_agent_is_frozen", &needs, || {
            interrupted("State:\tT (stopped)", Signal::SIGINT)
        }),
        Test::new("fails_when_an_agent_dies", &needs, says_what_does_not_hold),
    ])
}
