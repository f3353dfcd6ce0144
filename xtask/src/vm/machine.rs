//! Runs a machine in QEMU: boots a kernel with an archive of files, runs programs in it one after the
//! other, and hands out what they print while they run.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use xshell::cmd;

use super::guest::{self, Job, Stream};
use super::initramfs::Archive;
use super::kernel::Kernel;
use super::modules;
pub(crate) use super::ports::{Ended, Event};
use super::ports::{Port, State, listen};
use crate::shell::sh;

const COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic quiet";
/// Modules that are loaded into every guest: for the ports for results, and the kinds of links that tests make.
const MODULES: [&str; 15] = [
    "virtio_pci",
    "virtio_console",
    "ip_gre",
    "ip6_gre",
    "tun",
    "veth",
    "dummy",
    "bridge",
    "8021q",
    "macvlan",
    "sch_ingress",
    "cls_bpf",
    "sch_netem",
    "sch_tbf",
    "vrf",
];
const MEMORY_MB: &str = "2048";
/// Time for boot and power-off.
const BOOT: Duration = Duration::from_secs(60);

/// The clock that a machine goes by, where its processor has to be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// This machine's: with two processors, as fast as can be, some thirty times slower than real ones.
    Here,
    /// Instructions of its one processor, 1 ns each: what takes how long does not depend on this
    /// machine, and is in proportion to what is done once per second, as on a real one.
    Instructions,
}

/// Boots a machine with these files, runs the programs, and calls `each` for what happens.
///
/// # Errors
/// The machine cannot be started. What goes wrong inside is in the result.
pub(crate) fn run(
    kernel: &Kernel,
    time: Time,
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
    let mut machine = Machine(start(kernel, time, folder.path())?);
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
    time: Time,
    files: Archive,
    jobs: &[Job],
) -> anyhow::Result<Vec<String>> {
    let mut outputs = Vec::new();
    let mut errors = String::new();
    let mut failed = None;
    let ended = run(kernel, time, files, jobs, |event| match event {
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

/// Returns the last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A running machine, killed and reaped on drop.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(kernel: &Kernel, time: Time, folder: &Path) -> anyhow::Result<Child> {
    let processor = processor(time);
    let image = &kernel.image;
    // Nobody attacks it, and an emulated processor has nothing to protect.
    let append = format!("{COMMAND_LINE} mitigations=off");
    let sockets = Port::ALL.map(|port| format!("socket,id={0},path={0}", port.name()));
    let sockets = sockets.iter().flat_map(|socket| ["-chardev", socket]);
    // By the numbers of its ports, from 1, the guest knows them.
    let command = cmd!(
        sh(),
        "qemu-system-x86_64 {processor...} -m {MEMORY_MB} -nodefaults -no-reboot -display none
         -kernel {image} -initrd initramfs -append {append}
         -device virtio-serial-pci {sockets...} -serial chardev:console
         -device virtserialport,chardev=output,nr=1 -device virtserialport,chardev=error,nr=2"
    );
    let line = command.to_string();
    Command::from(command)
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))
}

/// Returns QEMU's options for a processor: this one's own virtualisation where there is one.
fn processor(time: Time) -> &'static [&'static str] {
    match time {
        _ if has_kvm() => &[
            "-accel",
            "kvm",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
        ],
        Time::Here => &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"],
        Time::Instructions => &[
            "-accel",
            "tcg,thread=single",
            // While nothing is to be done, time goes by as fast as it can.
            "-icount",
            "shift=0,sleep=off",
            // Each byte that `rep movsb` moves counts as an instruction; without, the kernel moves 8.
            "-cpu",
            "max,-erms,-fsrm",
            // With two, the start of the second one never ends (QEMU 7.2).
            "-smp",
            "1",
        ],
    }
}

/// Returns whether the processor runs machines itself: the device alone does not tell.
fn has_kvm() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtual_machines = processor
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    let device = fs::File::options().read(true).write(true).open("/dev/kvm");
    virtual_machines && device.is_ok()
}

/// Makes up a number that no program prints by chance.
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
