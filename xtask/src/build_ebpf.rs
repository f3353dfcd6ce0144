//! The committed BPF object: building it, recording what it was built from, comparing it.
//!
//! Users build the agent with plain stable cargo, so the object lies in the tree. It is the same
//! byte for byte wherever it is built with the recorded toolchain.

pub(crate) mod rustc_wrapper;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::record::{self, OBJECT, RECORD, STALE};
use crate::shell;
use toolchain::Toolchain;

const TARGET: &str = "bpfel-unknown-none";

/// How the committed object compares with one built here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The same toolchain made the same bytes.
    Identical,
    /// Another toolchain: the bytes say nothing. The tests have to run on this object instead.
    OtherToolchain(PathBuf),
}

/// Builds the object and its record into the tree.
///
/// # Errors
/// The toolchain is incomplete, the programs do not compile, or a file cannot be written.
pub(crate) fn build() -> anyhow::Result<()> {
    let toolchain = Toolchain::find()?;
    let object = fs::read(compile(&toolchain)?)?;
    write_if_changed(OBJECT, &object)?;
    write_if_changed(RECORD, describe(&toolchain, &object)?.as_bytes())?;
    println!(
        "{OBJECT}: {} bytes, SHA-256 {}",
        object.len(),
        record::sha256(&object)
    );
    Ok(())
}

/// Compares the committed object with its record, the sources, and one built here.
///
/// # Errors
/// The object is stale, or the recorded toolchain makes another one of these sources, or as
/// [`build`].
pub(crate) fn check() -> anyhow::Result<Comparison> {
    let recorded = fs::read_to_string(shell::root().join(RECORD)).context(RECORD)?;
    let committed = fs::read(shell::root().join(OBJECT)).context(OBJECT)?;
    let field = |key| record::field(&recorded, key);
    let sources = record::sources_sha256(shell::root())?;
    ensure!(field("sources_sha256") == Some(&sources), STALE);
    ensure!(
        field("object_sha256") == Some(&record::sha256(&committed)),
        "{OBJECT} is not the object that {RECORD} records: run `cargo xtask build-ebpf`"
    );
    let toolchain = Toolchain::find()?;
    let built = compile(&toolchain)?;
    let others: Vec<String> = toolchain
        .versions
        .iter()
        .filter(|(name, version)| field(name) != Some(version))
        .map(|(name, version)| {
            let recorded = field(name).unwrap_or("nothing");
            format!("{name} is {version}, recorded is {recorded}")
        })
        .collect();
    if !others.is_empty() {
        println!(
            "{OBJECT} was built with another toolchain: {}",
            others.join("; ")
        );
        println!(
            "not compared; run the test suite on the object built here: DZ_EBPF_OBJECT={}",
            built.display()
        );
        return Ok(Comparison::OtherToolchain(built));
    }
    if fs::read(&built)? != committed {
        bail!(
            "{OBJECT} is not what the recorded toolchain makes of these sources: compare it with \
             {}, or run `cargo xtask build-ebpf`",
            built.display()
        );
    }
    println!("{OBJECT}: rebuilt, the same byte for byte");
    Ok(Comparison::Identical)
}

/// Compiles and strips; returns where the result lies.
fn compile(toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let folder = shell::root().join("dz-ebpf");
    // First, so that each registry has its folder (named after its host) when paths are remapped.
    shell::run(
        toolchain
            .cargo("fetch")
            .arg("--locked")
            .current_dir(&folder),
    )?;
    shell::run(
        toolchain
            .cargo("build")
            .args(["--release", "--locked", "--target", TARGET])
            .arg("--target-dir")
            .arg(folder.join("target"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain)?.join("\x1f"))
            .env("RUSTC_WRAPPER", std::env::current_exe()?)
            .env(rustc_wrapper::MARKER, "1")
            .current_dir(&folder),
    )?;
    let built = folder.join("target").join(TARGET).join("release/dz-ebpf");
    let stripped = folder.join("target/dz-ebpf.o");
    toolchain.strip(&built, &stripped)?;
    ensure_nothing_of_this_machine(&stripped)?;
    Ok(stripped)
}

/// The compiler's flags: BTF, and names that are the same on every machine in place of paths.
fn flags(toolchain: &Toolchain) -> anyhow::Result<Vec<String>> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    let mut remap = |from: &Path, to: &str| -> anyhow::Result<()> {
        let from = from
            .to_str()
            .with_context(|| format!("the path {} is not UTF-8", from.display()))?;
        flags.push(format!("--remap-path-prefix={from}={to}"));
        Ok(())
    };
    remap(shell::root(), "dz")?;
    remap(&toolchain.std_sources(), "rust")?;
    let registries = shell::cargo_home().unwrap_or_default().join("registry/src");
    for registry in fs::read_dir(&registries).with_context(|| registries.display().to_string())? {
        remap(&registry?.path(), "registry")?;
    }
    Ok(flags)
}

/// The object goes to everybody: no folder of this machine, no registry's name.
fn ensure_nothing_of_this_machine(object: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(object)?;
    let mut names = vec!["registry/src".to_owned(), "crates.io".to_owned()];
    let folders = [
        Some(shell::root().into()),
        shell::cargo_home(),
        std::env::home_dir(),
    ];
    names.extend(
        folders
            .into_iter()
            .flatten()
            .map(|folder| folder.to_string_lossy().into_owned()),
    );
    for name in names.iter().filter(|name| name.len() > 1) {
        ensure!(
            !bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes()),
            "{} contains {name}, which belongs to this machine: a path is not remapped",
            object.display()
        );
    }
    Ok(())
}

fn describe(toolchain: &Toolchain, object: &[u8]) -> anyhow::Result<String> {
    let mut text =
        "# Written by `cargo xtask build-ebpf`, checked by dz-agent/build.rs.\n".to_owned();
    let digests = [
        ("sources_sha256", record::sources_sha256(shell::root())?),
        ("object_sha256", record::sha256(object)),
    ];
    for (key, value) in toolchain.versions.iter().chain(&digests) {
        text.push_str(&format!("{key} = \"{value}\"\n"));
    }
    Ok(text)
}

/// An untouched file keeps its time, and cargo does not rebuild the agent for it.
fn write_if_changed(name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let path = shell::root().join(name);
    if fs::read(&path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
