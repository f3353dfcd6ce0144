//! Runs programs. A command line is written with [`xshell::cmd!`] for the shell that [`sh`] returns: `.run()` shows the line and
//! all that the program prints, [`answer`] keeps what it prints to itself and returns it, `.read()` only lets standard error
//! through. A program that lives on, or has other streams or another process group, becomes a [`std::process::Command`] of its
//! command line (`From`). Only `demo/console.rs`, which runs what a reader could type, and `build_ebpf/rustc_wrapper.rs`, which
//! stands in rustc's place, have no use for this shell.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use xshell::{Cmd, Shell};

/// Returns the shell of all command lines, which runs programs in the folder of the workspace. Each thread has its own, which is
/// leaked, so that a command line can be handed on without it.
pub(crate) fn sh() -> &'static Shell {
    thread_local! {
        static SHELL: &'static Shell = {
            let shell = Shell::new().expect("cargo runs us in a folder that exists");
            shell.change_dir(root());
            Box::leak(Box::new(shell))
        };
    }
    SHELL.with(|shell| *shell)
}

/// Runs a program and returns its standard output, trimmed. Its standard error is shown as part of the error, or not at all: some
/// programs are only run to see whether they are there.
///
/// # Errors
/// The program cannot be started, ends unsuccessfully, or writes something that is not UTF-8.
pub(crate) fn answer(command: Cmd<'_>) -> anyhow::Result<String> {
    let command = command.ignore_status();
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "`{command}` failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("`{command}` writes something else than UTF-8"))?;
    Ok(text.trim().to_owned())
}

/// Finds a program on the path, in the system's own folders, or where cargo installs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Returns cargo's own folder, `$CARGO_HOME` or `~/.cargo`.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

/// Returns the cargo that runs us, or the one on the path.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Returns the folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}
