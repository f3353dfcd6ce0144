//! The BPF file system that the pins are in: that there is one, and how long it lasts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{ExitCode, FailWith, Failure};

/// Where a BPF file system usually is.
const USUAL: &str = "/sys/fs/bpf";
/// The number of the machine's own PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INIT_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Makes sure that the pin directory lies on a BPF file system. Mounts one at its usual place, as
/// bpftool does, where no systemd has: for root alone, as everybody may make directories in that of systemd. Never over another
/// one, whose pins would be out of sight: the pin directory may be a link to somewhere else.
pub(super) fn ensure_bpffs(pin_dir: &Path) -> Result<(), Failure> {
    if is_bpffs(pin_dir)? {
        return Ok(());
    }
    if pin_dir.starts_with(USUAL) && !is_bpffs(Path::new(USUAL))? {
        let mount = Command::new("mount")
            .args(["-t", "bpf", "-o", "mode=0700", "bpf", USUAL])
            .output();
        if mount.is_ok_and(|output| output.status.success()) && is_bpffs(pin_dir)? {
            return Ok(());
        }
    }
    Err(Failure::new(
        ExitCode::Kernel,
        format!(
            "{}: not on a BPF file system: `mount -t bpf bpf {USUAL}`, or choose another --pin-dir",
            pin_dir.display()
        ),
    ))
}

/// Says whether the deepest existing folder of `path` is on a BPF file system.
///
/// # Errors
/// That cannot be told.
fn is_bpffs(path: &Path) -> Result<bool, Failure> {
    for path in path.ancestors() {
        match statfs(path) {
            Ok(facts) => return Ok(facts.filesystem_type() == BPF_FS_MAGIC),
            Err(Errno::ENOENT) => {}
            Err(errno) => {
                return Err(io::Error::from(errno))
                    .fail_with(ExitCode::Failure, || path.display().to_string());
            }
        }
    }
    Ok(false)
}

/// How long the BPF file system of a pin directory lasts, and with it the kernel part without an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// As long as the machine runs: its first process sees it, too.
    Machine,
    /// As long as a process is in our mount namespace, or in another that sees it; the machine's first process does not.
    MountNamespace,
    /// It cannot be seen from here: a container hides the machine's processes.
    Unknown,
}

impl Lasting {
    /// Finds out how long the file system of an existing directory lasts. The kernel throws a file system away when no
    /// mount namespace has it mounted any more, and a mount namespace when its last process ends.
    pub fn of(directory: &Path) -> Self {
        let find = || -> io::Result<Self> {
            let device = fs::metadata(directory)?.dev();
            let mounts = fs::read_to_string("/proc/1/mountinfo")?;
            let here = fs::read_link("/proc/self/ns/pid")?;
            Ok(match has_mount(&mounts, major(device), minor(device)) {
                false => Self::MountNamespace,
                // The first process of a container may be all that sees it.
                true if here != Path::new(INIT_PID_NAMESPACE) => Self::Unknown,
                true => Self::Machine,
            })
        };
        find().unwrap_or(Self::Unknown)
    }

    /// Returns what is to be known of it, for people; none where the kernel part goes on without us.
    pub fn warning(self, pin_dir: &Path) -> Option<String> {
        let pins = pin_dir.display();
        match self {
            Self::Machine => None,
            Self::MountNamespace => Some(format!(
                "{pins} is on a BPF file system of this mount namespace alone: with its last process the kernel part ends, and \
                 routes stay; enter the network namespace with `nsenter --net=`, not `ip netns exec`, or mount the \
                 host's {USUAL} here"
            )),
            Self::Unknown => Some(format!(
                "whether the BPF file system of {pins} outlasts this container cannot be seen from here: mount the host's \
                 {USUAL} into it, or the kernel part ends with the container, and routes stay"
            )),
        }
    }
}

/// Says whether a list of mounts (`/proc/PID/mountinfo`, proc_pid_mountinfo(5)) has one of this device.
fn has_mount(mounts: &str, major: u64, minor: u64) -> bool {
    let device = format!("{major}:{minor}");
    let mut mounts = mounts.lines();
    mounts.any(|mount| mount.split(' ').nth(2) == Some(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_device() {
        let mounts = "22 27 0:21 / /proc rw - proc proc rw\n46 23 0:39 / /sys/fs/bpf rw shared:9 - bpf bpf rw\n";
        assert!(has_mount(mounts, 0, 39));
        assert!(!has_mount(mounts, 0, 3) && !has_mount(mounts, 22, 27));
    }

    #[test]
    fn what_the_machine_keeps_needs_no_warning() {
        let pins = Path::new("/sys/fs/bpf/dz-agent");
        assert_eq!(Lasting::Machine.warning(pins), None);
        for lasting in [Lasting::MountNamespace, Lasting::Unknown] {
            let warning = lasting.warning(pins).expect("one");
            assert!(
                warning.contains("/sys/fs/bpf/dz-agent") && !warning.contains("  "),
                "{warning}"
            );
        }
    }
}
