//! A user of this host without any privilege.

use std::fs;
use std::io;

use anyhow::{Context, ensure};

/// Of the kernel's overflow user, usually called so.
const NOBODY: libc::c_long = 65_534;

/// Takes all privileges away from the calling thread, for good, and only from it: libc would change all threads.
///
/// # Errors
/// It is not privileged, or keeps something.
pub fn become_nobody() -> anyhow::Result<()> {
    change_user().context("giving up privileges")?;
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let capabilities = status.lines().find(|line| line.starts_with("CapEff:"));
    let none = capabilities.is_some_and(|line| line.ends_with("0000000000000000"));
    ensure!(none, "still privileged: {capabilities:?}");
    Ok(())
}

fn change_user() -> io::Result<()> {
    let succeeded = |result: libc::c_long| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: system calls that take numbers; the list of groups is empty.
    unsafe {
        succeeded(libc::syscall(
            libc::SYS_setgroups,
            0,
            std::ptr::null::<libc::gid_t>(),
        ))?;
        succeeded(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
        succeeded(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))
    }
}
