//! Network namespaces that live as long as the value.
//!
//! A namespace is entered with `setns` on a thread of the test process, never with `ip netns exec`:
//! that mounts a new /sys, which hides the BPF file system.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where `ip netns` looks for names.
const NAMES: &str = "/run/netns";
/// What our names start with; the process id follows.
const PREFIX: &str = "dzt-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, with a name that `ip netns` shows; both are gone after the drop, unless
/// something else still holds the namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a namespace with its loopback interface up. Its name is `dzt-<pid>-<number>-<label>`.
    ///
    /// # Errors
    /// No privilege, or the kernel refuses.
    pub fn new(label: &str) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        fs::create_dir_all(NAMES).with_context(|| format!("creating {NAMES}"))?;
        let path = Path::new(NAMES).join(&name);
        File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        match create(&path) {
            Ok(file) => {
                let netns = Self { name, file };
                netns.ip("link set lo up")?;
                Ok(netns)
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error.context("creating a network namespace (needs root)"))
            }
        }
    }

    /// The name under which `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` on a thread inside the namespace; sockets that it opens stay there. A panic of `f`
    /// goes on in the caller.
    ///
    /// # Panics
    /// With `f`, or when the namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        run_in(&self.file, f)
    }

    /// Holds the namespace (not its name), for what has to be done there when the owner may be gone.
    ///
    /// # Errors
    /// No descriptors left.
    pub(crate) fn hold(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Runs a future to its end inside the namespace, on a runtime of its own, which `f` runs in
    /// too (sockets of the agent's library are opened there).
    ///
    /// # Panics
    /// With the future, or when the namespace cannot be entered.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, f: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async { f().await })
        })
    }

    /// Starts a child inside the namespace.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())
    }

    /// Runs a child inside the namespace to its end.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())
    }

    /// Runs `ip` with the arguments in `line` (split at white space) and returns what it prints.
    ///
    /// # Errors
    /// What `ip` says when it refuses.
    pub fn ip(&self, line: &str) -> anyhow::Result<String> {
        self.command(&format!("ip {line}"))
    }

    /// Index of an interface in the namespace.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn ifindex(&self, name: &str) -> anyhow::Result<u32> {
        self.run(|| nix::net::if_::if_nametoindex(name))
            .with_context(|| format!("interface {name} in {}", self.name))
    }

    /// Runs a command line (split at white space) and returns what it prints.
    ///
    /// # Errors
    /// What the program says when it fails.
    pub fn command(&self, line: &str) -> anyhow::Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let output = self
            .output(Command::new(program).args(words))
            .with_context(|| format!("running `{line}`"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{line}` in {}: {}: {}",
                self.name,
                output.status,
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Runs `f` on a thread inside a namespace. A panic of `f` goes on in the caller.
pub(crate) fn run_in<T: Send>(netns: &File, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).expect("entering our own namespace");
            f()
        });
        thread
            .join()
            .unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic))
    })
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_name(&Path::new(NAMES).join(&self.name));
    }
}

/// A thread of its own changes to a new namespace and gives it a name; the name and the open file
/// outlive the thread.
fn create(path: &Path) -> anyhow::Result<File> {
    const CURRENT: &str = "/proc/thread-self/ns/net";
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some(CURRENT),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            File::open(CURRENT).map_err(anyhow::Error::from)
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn remove_name(path: &Path) {
    // Detached: a child that still has the namespace open must not keep the name.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Removes the names that test processes left which were killed: those of ours whose process is
/// gone. Returns what was removed.
pub fn remove_leftovers() -> Vec<PathBuf> {
    remove(|pid| !Path::new("/proc").join(pid).exists())
}

/// Removes the names that this process has made, for it ends without its destructors.
pub(crate) fn remove_ours() {
    let ours = std::process::id().to_string();
    remove(|pid| pid == ours);
}

fn remove(of: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return Vec::new();
    };
    let left = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        pid.is_some_and(&of)
    });
    left.inspect(|path| remove_name(path)).collect()
}
