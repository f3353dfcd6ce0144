//! Collects the files of every machine: a shell, what a system has in `/etc`, and programs of this one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use xshell::cmd;

use super::initramfs::Archive;
use crate::shell::{self, sh};

/// Begins an archive with a shell, what a system has in `/etc`, and these programs of this machine on the
/// guest's path.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn guest_files(programs: &[PathBuf]) -> anyhow::Result<Archive> {
    let mut files = Archive::new();
    for folder in [
        "/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp", "/var/lib",
    ] {
        files.folder(folder);
    }
    // Not busybox's shell, which prefers its own `ip` to the one on the path.
    let dash = shell::find_program("dash").context("no dash")?;
    files.program("/bin/sh", &dash)?;
    for program in programs {
        let name = program.file_name().context("not a program")?;
        files.program(Path::new("/usr/bin").join(name), program)?;
    }
    let busybox = shell::find_program("busybox").context("no busybox")?;
    files.program("/bin/busybox", &busybox)?;
    for name in shell::answer(cmd!(sh(), "{busybox} --list"))?.lines() {
        files.link(format!("/bin/{name}"), "busybox");
    }
    files.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
    files.file("/etc/group", b"root:x:0:\n");
    files.file("/etc/hosts", b"127.0.0.1 localhost vm\n");
    // Names of route protocols and tables, for `ip`.
    for folder in ["/etc/iproute2", "/usr/share/iproute2"] {
        files.copy_folder(Path::new(folder))?;
    }
    Ok(files)
}
