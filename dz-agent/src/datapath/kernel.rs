//! Checks privileges and features of the kernel before anything is touched, and names those that are missing.

use std::path::Path;

use nix::sys::utsname::uname;

use super::bpffs::ensure_bpffs;
use super::clock::check_clock;
use super::features;
use super::signals::undisturbed;
use crate::error::{ExitCode, FailWith, Failure};

/// The capabilities that the agent needs, each with its bit number (capabilities(7)).
const CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Checks privileges, clock and kernel.
///
/// # Errors
/// [`ExitCode::Privilege`] or [`ExitCode::Kernel`], naming everything that is missing;
/// [`ExitCode::Failure`]: our clock is not that of kernel programs.
pub fn check_kernel(pin_dir: &Path) -> Result<(), Failure> {
    check_privileges()?;
    check_clock()?;
    undisturbed(check_features)?;
    ensure_bpffs(pin_dir)
}

fn check_features() -> Result<(), Failure> {
    features::check(&release()?)?;
    // It asks once, when it is first needed.
    aya::features();
    Ok(())
}

fn check_privileges() -> Result<(), Failure> {
    const STATUS: &str = "/proc/self/status";
    let status = std::fs::read_to_string(STATUS);
    let status = status.fail_with(ExitCode::Failure, || STATUS)?;
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let unsaid = || Failure::new(ExitCode::Failure, format!("{STATUS}: no CapEff"));
    let effective = effective.ok_or_else(unsaid)?;
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Privilege,
        format!(
            "missing {}: run as root or grant these capabilities",
            missing.join(", ")
        ),
    ))
}

/// Returns the kernel's release, for people.
fn release() -> Result<String, Failure> {
    let name = uname()
        .map_err(|_| Failure::new(ExitCode::Kernel, "uname: cannot tell the kernel's version"))?;
    Ok(name.release().to_string_lossy().into_owned())
}
