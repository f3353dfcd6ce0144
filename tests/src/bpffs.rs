//! The BPF file system, and a directory on it for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

/// Where it is mounted.
pub const ROOT: &str = "/sys/fs/bpf";
/// What our directories start with; the process id follows.
const PREFIX: &str = "dz-test-";
/// `BPF_FS_MAGIC` of the kernel's `magic.h`.
const MAGIC: FsType = FsType(0xcafe_4a11);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Mounts it if it is not mounted.
///
/// # Errors
/// No privilege, or a kernel without BPF.
pub fn ensure_mounted() -> anyhow::Result<()> {
    let mounted = || statfs(ROOT).is_ok_and(|stat| stat.filesystem_type() == MAGIC);
    if mounted() {
        return Ok(());
    }
    let result = mount(
        Some("bpf"),
        ROOT,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    );
    // Another test process may have been quicker: look again before it is an error.
    if mounted() {
        return Ok(());
    }
    match result {
        Ok(()) => bail!("{ROOT} is not the BPF file system although it was just mounted"),
        Err(errno) => Err(errno).with_context(|| format!("mounting the BPF file system on {ROOT}")),
    }
}

/// A directory for pins, named `dz-test-<pid>-<number>-<label>`; it and every pin in it are removed
/// on drop.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes it.
    ///
    /// # Errors
    /// No BPF file system, or no privilege.
    pub fn new(label: &str) -> anyhow::Result<Self> {
        ensure_mounted()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(ROOT).join(format!("{PREFIX}{}-{number}-{label}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of test processes that are gone. Returns what was removed.
pub fn remove_leftovers() -> Vec<PathBuf> {
    remove(|pid| !Path::new("/proc").join(pid).exists())
}

/// Removes the directories that this process has made, for it ends without its destructors.
pub(crate) fn remove_ours() {
    let ours = std::process::id().to_string();
    remove(|pid| pid == ours);
}

fn remove(of: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(ROOT) else {
        return Vec::new();
    };
    let left = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        pid.is_some_and(&of)
    });
    left.filter(|path| fs::remove_dir_all(path).is_ok())
        .collect()
}
