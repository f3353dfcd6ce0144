//! Children of a test.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::children;
use crate::harness;
use crate::netns::Netns;
use crate::wait::eventually;

/// For what a child does at once, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child whose output is collected. Killed on drop; the output is shown if the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    title: String,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it inside the namespace.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(netns: &Netns, command: &mut Command, title: String) -> anyhow::Result<Self> {
        Ok(Self::spawn_by(|command| Ok((netns.spawn(command)?, ())), command, title)?.0)
    }

    /// Starts it as `spawn` does, which returns something beside the child.
    pub(crate) fn spawn_by<T>(
        spawn: impl FnOnce(&mut Command) -> io::Result<(Child, T)>,
        command: &mut Command,
        title: String,
    ) -> anyhow::Result<(Self, T)> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (mut child, beside) =
            spawn(command).with_context(|| format!("starting {command:?}"))?;
        let log = Arc::new(Mutex::new(String::new()));
        children::keep_log(&title, &log);
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(collect(output, &log));
        }
        if let Some(output) = child.stderr.take() {
            readers.push(collect(output, &log));
        }
        let process = Self {
            child,
            title,
            log,
            readers,
        };
        Ok((process, beside))
    }

    /// What it has printed so far, both streams.
    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended and been waited for.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.title))
    }

    /// Stops it where it is with SIGSTOP, which does not act at once, and waits until it stands.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        eventually(PATIENCE, &format!("{} stopped", self.title), || {
            self.is_stopped().then_some(())
        })
    }

    /// Whether it has been stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        stat.is_ok_and(|stat| stat.contains(") T "))
    }

    /// How it has ended, if it has; then the log is all that it has written.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.read_the_rest();
        }
        Ok(status)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let title = format!("end of {}", self.title);
        eventually(PATIENCE, &title, || self.ended().ok().flatten())
    }

    /// It has ended, and what it has written comes through a pipe.
    fn read_the_rest(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_the_rest();
        harness::note(&self.title, &self.log());
    }
}

fn collect(output: impl Read + Send + 'static, log: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
