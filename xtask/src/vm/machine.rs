//! A machine in QEMU: boots a kernel with an archive of files, runs programs in it one after the
//! other, and hands out what they print while they run.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::guest::{self, Job, Line, Stream};
use super::initramfs::Archive;
use super::kernel::Kernel;
use super::modules;
use crate::shell;

/// What is loaded into every guest: the ports for results, and the kinds of links that tests make.
const MODULES: [&str; 12] = [
    "virtio_pci",
    "virtio_console",
    "ip_gre",
    "tun",
    "veth",
    "dummy",
    "bridge",
    "8021q",
    "macvlan",
    "sch_ingress",
    "cls_bpf",
    "sch_netem",
];
const MEMORY_MB: u32 = 2048;
/// For boot and power-off.
const BOOT: Duration = Duration::from_secs(60);

/// What a machine says while it runs.
pub(crate) enum Event<'a> {
    /// A program starts; its number.
    Begin(usize),
    /// One line of what it prints.
    Text(Stream, &'a str),
    /// It has ended with this exit code; 137 if it was killed after its deadline.
    End(usize, i32),
}

/// How a machine ended.
pub(crate) struct Ended {
    /// Why not every program has run to its end, if so.
    pub(crate) cut_off: Option<String>,
    /// The kernel's log.
    pub(crate) console: String,
}

/// Boots a machine with these files, runs the programs, and calls `each` for what happens.
///
/// # Errors
/// The machine cannot be started. What goes wrong inside is in the result.
pub(crate) fn run(
    kernel: &Kernel,
    mut files: Archive,
    jobs: &[Job],
    mut each: impl FnMut(Event<'_>),
) -> anyhow::Result<Ended> {
    let folder = tempfile::tempdir()?;
    let mark = format!("#{:016x}#", mark());
    let modules = modules::in_order(kernel, &MODULES)?;
    for (name, content) in &modules {
        files.file(format!("/modules/{name}.ko"), content);
    }
    let names: Vec<_> = modules.into_iter().map(|(name, _)| name).collect();
    files.script("/init", &guest::init(&names, jobs, &mark));
    let archive = folder.path().join("initramfs");
    files.write(&archive)?;
    let (sender, receiver) = mpsc::channel();
    for port in Port::ALL {
        listen(folder.path(), port, sender.clone())?;
    }
    drop(sender);
    let mut machine = Machine(start(kernel, folder.path())?);
    let limit = jobs.iter().map(Job::deadline).sum::<Duration>() + BOOT;
    let mut state = State::default();
    let late = follow(&receiver, &mut machine, limit, |port, text| {
        state.line(port, text, &mark, &mut each);
    })?;
    if late {
        let _ = machine.0.kill();
    }
    let status = machine.0.wait()?;
    Ok(state.end(jobs.len(), late.then_some(limit), status))
}

/// Runs the programs in a machine and returns what each wrote to standard output.
///
/// # Errors
/// The machine cannot be started, or dies; a program fails.
pub(crate) fn outputs(
    kernel: &Kernel,
    files: Archive,
    jobs: &[Job],
) -> anyhow::Result<Vec<String>> {
    let mut outputs = Vec::new();
    let mut errors = String::new();
    let mut failed = None;
    let ended = run(kernel, files, jobs, |event| match event {
        Event::Begin(_) => outputs.push(String::new()),
        Event::Text(Stream::Output, text) => {
            if let Some(output) = outputs.last_mut() {
                *output += text;
                output.push('\n');
            }
        }
        Event::Text(Stream::Error, text) => {
            errors += text;
            errors.push('\n');
        }
        Event::End(_, 0) => errors.clear(),
        Event::End(job, code) => {
            failed.get_or_insert_with(|| (job, code, std::mem::take(&mut errors)));
        }
    })?;
    if let Some(why) = ended.cut_off {
        bail!("{why}; its console:\n{}", tail(&ended.console, 40));
    }
    if let Some((job, code, errors)) = failed {
        bail!("exit status {code} of {:?}: {errors}", jobs[job]);
    }
    Ok(outputs)
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Console,
    Output,
    Error,
}

impl Port {
    const ALL: [Self; 3] = [Self::Console, Self::Output, Self::Error];

    fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Output => "output",
            Self::Error => "error",
        }
    }
}

/// Killed and reaped in any case.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends what comes in at a port, line by line, to `lines`, until the machine closes it.
fn listen(folder: &Path, port: Port, lines: Sender<(Port, String)>) -> anyhow::Result<()> {
    let listener = UnixListener::bind(folder.join(port.name()))?;
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            read_lines(stream, |line| lines.send((port, line)).is_ok());
        }
    });
    Ok(())
}

fn read_lines(stream: impl Read, mut each: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        if !each(text.trim_end_matches(['\n', '\r']).to_owned()) {
            return;
        }
        line.clear();
    }
}

fn start(kernel: &Kernel, folder: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new("qemu-system-x86_64");
    for accelerator in accelerators() {
        command.args(["-accel", accelerator]);
    }
    command
        .args(["-cpu", "max", "-smp", "2", "-m", &MEMORY_MB.to_string()])
        .args(["-nodefaults", "-no-reboot", "-display", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .args(["-initrd", "initramfs"])
        .args(["-append", "console=ttyS0 panic=-1 oops=panic quiet"])
        .args(["-device", "virtio-serial-pci"]);
    for port in Port::ALL {
        let name = port.name();
        command.args(["-chardev", &format!("socket,id={name},path={name}")]);
    }
    // By these numbers, from 1, the guest knows them.
    command
        .args(["-serial", "chardev:console"])
        .args(["-device", "virtserialport,chardev=output,nr=1"])
        .args(["-device", "virtserialport,chardev=error,nr=2"])
        .current_dir(folder)
        .stdin(Stdio::null());
    let line = shell::command_line(&command);
    command
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))
}

/// The processor's own virtualisation where there is one; a device alone says nothing.
fn accelerators() -> &'static [&'static str] {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtual_machines = processor
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    let device = fs::File::options().read(true).write(true).open("/dev/kvm");
    if virtual_machines && device.is_ok() {
        &["kvm", "tcg,thread=multi"]
    } else {
        &["tcg,thread=multi"]
    }
}

/// A number that no program prints by chance.
fn mark() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("mark")
}

/// Hands out lines until the machine has ended. Returns whether that takes too long.
fn follow(
    lines: &Receiver<(Port, String)>,
    machine: &mut Machine,
    limit: Duration,
    mut each: impl FnMut(Port, &str),
) -> anyhow::Result<bool> {
    const LOOK: Duration = Duration::from_millis(500);
    let end = Instant::now() + limit;
    loop {
        // Before the look at what it has left behind: nothing comes later.
        let ended = machine.0.try_wait()?.is_some();
        match lines.recv_timeout(LOOK) {
            Ok((port, line)) => each(port, &line),
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
            Err(RecvTimeoutError::Timeout) if ended => return Ok(false),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > end {
            return Ok(true);
        }
    }
}

/// What is known about the programs so far.
#[derive(Default)]
struct State {
    console: String,
    /// The program whose standard output is read.
    running: usize,
    /// The program whose standard error is read.
    erring: usize,
    /// A program that has ended by its standard output, and its exit code, while its standard error
    /// is still read: the ports are not read in step.
    ending: Option<(usize, i32)>,
    /// What has come meanwhile.
    waiting: Vec<String>,
    finished: usize,
    done: bool,
}

impl State {
    fn line(&mut self, port: Port, text: &str, mark: &str, each: &mut impl FnMut(Event<'_>)) {
        match port {
            Port::Console => {
                self.console += text;
                self.console.push('\n');
            }
            Port::Output if self.ending.is_some() => self.waiting.push(text.to_owned()),
            Port::Output => self.output(text, mark, each),
            Port::Error => self.error(text, mark, each),
        }
        let Some((job, code)) = self.ending.filter(|(job, _)| *job < self.erring) else {
            return;
        };
        self.ending = None;
        self.finished = job + 1;
        each(Event::End(job, code));
        for text in std::mem::take(&mut self.waiting) {
            self.line(Port::Output, &text, mark, each);
        }
    }

    fn output(&mut self, text: &str, mark: &str, each: &mut impl FnMut(Event<'_>)) {
        match guest::line(text, mark) {
            Line::Text(text) => each(Event::Text(Stream::Output, text)),
            Line::Begin(job) => {
                self.running = job;
                each(Event::Begin(job));
            }
            Line::End(job, code, before) => {
                if !before.is_empty() {
                    each(Event::Text(Stream::Output, before));
                }
                self.ending = Some((job, code));
            }
            Line::Done => self.done = true,
        }
    }

    fn error(&mut self, text: &str, mark: &str, each: &mut impl FnMut(Event<'_>)) {
        let (text, next) = match guest::line(text, mark) {
            Line::End(job, _, before) => (before, job + 1),
            _ => (text, self.erring),
        };
        if !text.is_empty() {
            each(Event::Text(Stream::Error, text));
        }
        self.erring = next;
    }

    fn end(self, jobs: usize, late: Option<Duration>, status: ExitStatus) -> Ended {
        let cut_off = if self.done && self.finished == jobs {
            None
        } else if let Some(limit) = late {
            Some(format!(
                "the machine was stopped after {} s",
                limit.as_secs()
            ))
        } else {
            Some(format!("the machine died ({status})"))
        };
        Ended {
            cut_off,
            console: self.console,
        }
    }
}
