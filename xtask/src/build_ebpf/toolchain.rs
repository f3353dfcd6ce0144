//! Finds the tools that compile for BPF: a compiler with the target, bpf-linker, and the LLVM that both use.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use xshell::{Cmd, cmd};

use crate::apt;
use crate::shell::{self, sh};

/// The compiler's name for the machine that kernel programs run on.
pub(super) const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler with a prebuilt `core` for BPF, and what bpf-linker links.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
const LLVM_PACKAGES: [&str; 4] = [
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];
const LLVM_MAJOR: u32 = 22;
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13";
/// The oldest compiler that aya-ebpf 0.2 takes.
const OLDEST_RUSTC: (u32, u32) = (1, 87);

/// Which compiler is used, and how.
#[derive(Debug, PartialEq, Eq)]
enum Compiler {
    /// Debian's, which has `core` for BPF.
    Debian,
    /// Rustup's nightly, which builds `core` from its sources.
    Nightly,
}

/// The tools, all of them found.
#[derive(Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    sysroot: PathBuf,
    linker: PathBuf,
    strip: PathBuf,
    /// Name and version of each part, as the record holds them.
    pub(crate) versions: [(&'static str, String); 3],
}

impl Toolchain {
    /// Finds the parts; installs what is missing when root on Debian or Ubuntu.
    ///
    /// # Errors
    /// A part is missing (with what to install), too old, or cannot be installed.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let (compiler, sysroot) = match find_compiler() {
            Ok(found) => found,
            Err(missing) if apt::can_install() => {
                apt::install(&COMPILER_PACKAGES).context(missing)?;
                find_compiler()?
            }
            Err(missing) => return Err(missing),
        };
        let strip = find_strip()?;
        let linker = find_linker()?;
        let rustc = shell::answer(compiler.rustc().arg("-V"))?.replace("rustc ", "");
        let llvm = llvm_version(&shell::answer(cmd!(sh(), "{strip} --version"))?)?;
        let versions = [
            ("rustc", rustc),
            ("bpf_linker", linker_version(&linker)?),
            ("llvm", llvm),
        ];
        Ok(Self {
            compiler,
            sysroot,
            linker,
            strip,
            versions,
        })
    }

    /// Begins a command line of the cargo that belongs to the compiler.
    pub(crate) fn cargo(&self, subcommand: &str) -> Cmd<'static> {
        let command = match self.compiler {
            Compiler::Debian => cmd!(sh(), "/usr/bin/cargo {subcommand}")
                .env("RUSTC", "/usr/bin/rustc")
                // aya-ebpf needs asm_experimental_arch.
                .env("RUSTC_BOOTSTRAP", "1"),
            Compiler::Nightly => cmd!(sh(), "rustup run nightly cargo {subcommand}")
                .env("CARGO_UNSTABLE_BUILD_STD", "core")
                .env_remove("RUSTC"),
        };
        command
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            // Of the cargo that runs us, which may be another one.
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS")
    }

    /// Writes a copy without DWARF, which the kernel does not read; BTF stays.
    ///
    /// # Errors
    /// `llvm-strip` fails.
    pub(crate) fn strip(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let strip = &self.strip;
        cmd!(sh(), "{strip} -g -o {to} {from}").run()?;
        Ok(())
    }

    /// Returns the folder of the standard library's sources, which the compiler may name in what it builds.
    pub(crate) fn std_sources(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }
}

impl Compiler {
    fn rustc(&self) -> Cmd<'static> {
        match self {
            Self::Debian => cmd!(sh(), "/usr/bin/rustc"),
            Self::Nightly => cmd!(sh(), "rustup run nightly rustc"),
        }
    }

    /// Returns the sysroot, if this compiler is here and can compile for BPF.
    fn sysroot(&self) -> Option<PathBuf> {
        let sysroot = PathBuf::from(shell::answer(self.rustc().args(["--print", "sysroot"])).ok()?);
        let needed = match self {
            Self::Debian => "lib/rustlib/bpfel-unknown-none/lib",
            Self::Nightly => "lib/rustlib/src/rust/library/core",
        };
        let cargo = *self == Self::Nightly || Path::new("/usr/bin/cargo").is_file();
        (cargo && sysroot.join(needed).is_dir()).then_some(sysroot)
    }

    fn check_version(&self) -> anyhow::Result<()> {
        let version = shell::answer(self.rustc().arg("-vV"))?;
        let rustc = version_after(&version, "release: ");
        ensure!(
            rustc.is_some_and(|found| found >= OLDEST_RUSTC),
            "the compiler for BPF is older than {}.{}:\n{version}",
            OLDEST_RUSTC.0,
            OLDEST_RUSTC.1
        );
        let llvm = version_after(&version, "LLVM version: ");
        ensure!(
            llvm.is_none_or(|(major, _)| major <= LLVM_MAJOR),
            "the compiler for BPF uses a newer LLVM than bpf-linker ({LLVM_MAJOR}):\n{version}"
        );
        Ok(())
    }
}

fn find_compiler() -> anyhow::Result<(Compiler, PathBuf)> {
    for compiler in [Compiler::Debian, Compiler::Nightly] {
        if let Some(sysroot) = compiler.sysroot() {
            compiler.check_version()?;
            return Ok((compiler, sysroot));
        }
    }
    bail!(
        "no compiler for bpfel-unknown-none. On Debian: sudo apt-get install {}. Elsewhere: \
         rustup toolchain install nightly --component rust-src",
        COMPILER_PACKAGES.join(" ")
    )
}

/// Finds `llvm-strip` of the LLVM that bpf-linker uses.
fn find_strip() -> anyhow::Result<PathBuf> {
    let strip = llvm_prefix().join("bin/llvm-strip");
    if !strip.is_file() && apt::can_install() && llvm_prefix() == Path::new(LLVM_PREFIX) {
        apt::install(&LLVM_PACKAGES)?;
    }
    ensure!(
        strip.is_file(),
        "no {}. On Debian: sudo apt-get install {}. Elsewhere: install LLVM {LLVM_MAJOR} and set \
         LLVM_PREFIX to its folder",
        strip.display(),
        LLVM_PACKAGES.join(" ")
    );
    Ok(strip)
}

fn llvm_prefix() -> PathBuf {
    std::env::var_os("LLVM_PREFIX").map_or_else(|| LLVM_PREFIX.into(), PathBuf::from)
}

fn find_linker() -> anyhow::Result<PathBuf> {
    let usable = || {
        let linker = shell::find_program("bpf-linker")?;
        let version = linker_version(&linker).ok()?;
        version.starts_with(LINKER_VERSION).then_some(linker)
    };
    if let Some(linker) = usable() {
        return Ok(linker);
    }
    // Without LLVM_PREFIX another LLVM of the machine may be picked; the default feature wants a
    // newer one.
    let prefix = llvm_prefix();
    let llvm = format!("llvm-{LLVM_MAJOR}");
    let install = |cargo: OsString| {
        cmd!(
            sh(),
            "{cargo} install bpf-linker --version ^{LINKER_VERSION} --locked --no-default-features
             --features {llvm}"
        )
        .env("LLVM_PREFIX", &prefix)
    };
    if !apt::can_install() {
        bail!(
            "no bpf-linker {LINKER_VERSION}: run `LLVM_PREFIX={} {}`",
            prefix.display(),
            install("cargo".into())
        );
    }
    apt::install(&LLVM_PACKAGES)?;
    install(shell::cargo()).run()?;
    usable().context("bpf-linker was installed, but is not found on the path")
}

fn linker_version(linker: &Path) -> anyhow::Result<String> {
    let version = shell::answer(cmd!(sh(), "{linker} --version"))?;
    Ok(version.replace("bpf-linker ", ""))
}

/// Finds the number in `Debian LLVM version 22.1.8`.
fn llvm_version(text: &str) -> anyhow::Result<String> {
    text.split_once("LLVM version ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .map(str::to_owned)
        .with_context(|| format!("llvm-strip does not say its version: {text}"))
}

/// Finds the major and minor number of the version that follows `label` at the start of a line.
fn version_after(text: &str, label: &str) -> Option<(u32, u32)> {
    let version = text.lines().find_map(|line| line.strip_prefix(label))?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let rustc = "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8";
        assert_eq!(version_after(rustc, "release: "), Some((1, 96)));
        assert_eq!(version_after(rustc, "LLVM version: "), Some((22, 1)));
        assert_eq!(version_after("rustc", "release: "), None);
        let strip =
            "llvm-strip, compatible with GNU strip\nDebian LLVM version 22.1.8\n  Optimized";
        assert_eq!(llvm_version(strip).unwrap(), "22.1.8");
    }
}
