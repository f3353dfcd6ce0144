//! Checks privileges and features of the kernel before anything is touched, and names those that are missing.

use std::error::Error;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};
use nix::sys::utsname::uname;

use super::bpffs::ensure_bpffs;
use super::causes::{chain, os_error};
use super::signals::undisturbed;
use crate::error::{ExitCode, Failure};

/// Oldest kernel served: Debian 12's.
const OLDEST: (u32, u32) = (6, 1);
/// The capabilities that the agent needs, each with its bit number (capabilities(7)).
const CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Checks privileges and kernel.
///
/// # Errors
/// [`ExitCode::Privilege`] or [`ExitCode::Kernel`], naming everything that is missing.
pub fn check_kernel(pin_dir: &Path) -> Result<(), Failure> {
    check_privileges()?;
    undisturbed(check_programs_and_maps)?;
    ensure_bpffs(pin_dir)
}

fn check_programs_and_maps() -> Result<(), Failure> {
    let release = release()?;
    if version(&release).is_none_or(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        return Err(Failure::new(
            ExitCode::Kernel,
            format!("kernel {release} is too old: {major}.{minor} or newer is needed"),
        ));
    }
    let mut missing = Vec::new();
    let programs = [
        (ProgramType::SchedClassifier, "TC classifier programs"),
        (ProgramType::Xdp, "XDP programs"),
    ];
    for (program, name) in programs {
        if !supported(is_program_supported(program), name)? {
            missing.push(name);
        }
    }
    let maps = [
        (MapType::Hash, "BPF hash maps"),
        (MapType::RingBuf, "BPF ring buffers"),
    ];
    for (map, name) in maps {
        if !supported(is_map_supported(map), name)? {
            missing.push(name);
        }
    }
    if !missing.is_empty() {
        return Err(Failure::new(
            ExitCode::Kernel,
            format!(
                "kernel {release} lacks {}: use a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF \
                 and CONFIG_BPF_JIT",
                missing.join(", ")
            ),
        ));
    }
    // It asks once, when it is first needed.
    aya::features();
    Ok(())
}

/// Reads the kernel's answer about a feature. An answer that it could not give does not mean no.
fn supported<E: Error + 'static>(answer: Result<bool, E>, name: &str) -> Result<bool, Failure> {
    answer.or_else(|error| match os_error(&error) {
        Some(libc::ENOMEM) => Err(Failure::new(
            ExitCode::Kernel,
            format!("trying {name}: {}", chain(&error)),
        )),
        _ => Ok(false),
    })
}

fn check_privileges() -> Result<(), Failure> {
    let effective = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0);
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

/// Returns the kernel's release, from uname(2): /proc/sys/kernel/osrelease ignores personality(2).
fn release() -> Result<String, Failure> {
    let name = uname()
        .map_err(|_| Failure::new(ExitCode::Kernel, "uname: cannot tell the kernel's version"))?;
    Ok(name.release().to_string_lossy().into_owned())
}

/// Says whether the running kernel is that version or newer.
pub(super) fn kernel_at_least(major: u32, minor: u32) -> bool {
    let running = release().ok().and_then(|release| version(&release));
    running.is_some_and(|version| version >= (major, minor))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions() {
        assert_eq!(version("6.1.0-39-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("2.6.78"), Some((2, 6)));
        assert_eq!(version("next"), None);
    }
}
