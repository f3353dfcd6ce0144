//! This program as cargo's `RUSTC_WRAPPER`: makes symbol names independent of the folder.
//!
//! Cargo gives every crate a `-C metadata` from which rustc makes part of each symbol's name. For
//! a crate outside the workspace's own folder, as dz-common is for dz-ebpf, it is made from the
//! absolute path. Name and version of the package tell crates apart as well.

use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitCode};

use super::toolchain::TARGET;

/// Set when cargo runs us in rustc's place.
pub(crate) const MARKER: &str = "DZ_XTASK_IS_RUSTC_WRAPPER";

/// Runs the compiler named by the first argument with the others, `-C metadata` replaced in what
/// is compiled for BPF. Returns its exit code.
///
/// # Errors
/// No arguments, or the compiler cannot be started.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let Some(rustc) = args.next() else {
        anyhow::bail!("{MARKER} is set, but there is no compiler to run");
    };
    let package = ["CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
        .map(|name| std::env::var(name).unwrap_or_default())
        .join("-");
    let status = Command::new(rustc)
        .args(rewrite(args.collect(), &package))
        .env_remove(MARKER)
        .status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn rewrite(mut args: Vec<OsString>, package: &str) -> Vec<OsString> {
    if args.iter().any(|arg| arg == OsStr::new(TARGET)) {
        for arg in &mut args {
            if arg.to_string_lossy().starts_with("metadata=") {
                *arg = format!("metadata={package}").into();
            }
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(args: &str) -> String {
        let args = args.split(' ').map(OsString::from).collect();
        rewrite(args, "dz-common-0.1.0")
            .join(OsStr::new(" "))
            .into_string()
            .unwrap()
    }

    #[test]
    fn replaces_metadata_for_bpf_only() {
        assert_eq!(
            rewritten("--target bpfel-unknown-none -C metadata=1f -C extra-filename=-2e"),
            "--target bpfel-unknown-none -C metadata=dz-common-0.1.0 -C extra-filename=-2e"
        );
        assert_eq!(rewritten("-C metadata=1f"), "-C metadata=1f");
    }
}
