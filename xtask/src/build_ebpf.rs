//! Builds the committed BPF objects, the agent's and that of the benches, records their sources and tools, and compares them with
//! what these make.
//!
//! Users build the agent with plain stable cargo, so the objects lie in the tree. They are the same
//! byte for byte wherever they are built with the recorded toolchain.

mod limits;
pub(crate) mod rustc_wrapper;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::record::{self, OBJECT, RECORD, STALE};
use crate::shell::{self, sh};
use toolchain::{TARGET, Toolchain};

/// The benches' object, which is no part of the agent, relative to the workspace.
const BENCH_OBJECT: &str = "dz-ebpf/object/dz-bench.o";

/// How the committed objects compare with those built here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The same toolchain made the same bytes.
    Identical,
    /// Another toolchain: the bytes say nothing. The tests have to run on this object instead.
    OtherToolchain(PathBuf),
}

/// An object: a binary of dz-ebpf, stripped.
struct Object {
    /// Name of the binary.
    binary: &'static str,
    /// Where it lies in the tree.
    committed: &'static str,
    /// Its digest's name in the record.
    digest: &'static str,
}

const OBJECTS: [Object; 2] = [
    Object {
        binary: "dz-ebpf",
        committed: OBJECT,
        digest: "object_sha256",
    },
    Object {
        binary: "dz-bench",
        committed: BENCH_OBJECT,
        digest: "bench_object_sha256",
    },
];

/// Builds the objects and their record into the tree.
///
/// # Errors
/// The toolchain is incomplete, the programs do not compile, or a file cannot be written.
pub(crate) fn build() -> anyhow::Result<()> {
    let toolchain = Toolchain::find()?;
    let built = compile(&toolchain)?;
    for (object, built) in OBJECTS.iter().zip(&built) {
        let bytes = fs::read(built)?;
        write_if_changed(object.committed, &bytes)?;
        println!(
            "{}: {} bytes, SHA-256 {}",
            object.committed,
            bytes.len(),
            record::sha256(&bytes)
        );
    }
    write_if_changed(RECORD, describe(&toolchain)?.as_bytes())
}

/// Compares the committed objects with their record, the sources, and those built here.
///
/// # Errors
/// An object is stale, or the recorded toolchain makes another one of these sources, or as
/// [`build`].
pub(crate) fn check() -> anyhow::Result<Comparison> {
    let recorded = fs::read_to_string(shell::root().join(RECORD)).context(RECORD)?;
    let field = |key| record::field(&recorded, key);
    let sources = record::sources_sha256(shell::root())?;
    ensure!(field("sources_sha256") == Some(&sources), STALE);
    for Object {
        committed, digest, ..
    } in &OBJECTS
    {
        ensure!(
            field(digest) == Some(&record::sha256(&read(committed)?)),
            "{committed} is not the object that {RECORD} records: run `cargo xtask build-ebpf`"
        );
    }
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
        let [object, _] = built;
        println!(
            "{OBJECT} was built with another toolchain: {}",
            others.join("; ")
        );
        println!(
            "not compared; run the test suite on the object built here: DZ_EBPF_OBJECT={}",
            object.display()
        );
        return Ok(Comparison::OtherToolchain(object));
    }
    for (Object { committed, .. }, built) in OBJECTS.iter().zip(&built) {
        if fs::read(built)? != read(committed)? {
            bail!(
                "{committed} is not what the recorded toolchain makes of these sources: compare it \
                 with {}, or run `cargo xtask build-ebpf`",
                built.display()
            );
        }
        println!("{committed}: rebuilt, the same byte for byte");
    }
    Ok(Comparison::Identical)
}

/// Reads a file of the tree.
fn read(name: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(shell::root().join(name)).with_context(|| name.to_owned())
}

/// Compiles and strips; returns where the results lie, in the order of [`OBJECTS`].
fn compile(toolchain: &Toolchain) -> anyhow::Result<[PathBuf; 2]> {
    let folder = shell::root().join("dz-ebpf");
    let target = folder.join("target");
    let _folder = sh().push_dir(folder);
    // First, so that each registry has its folder (named after its host) when paths are remapped.
    toolchain.cargo("fetch").arg("--locked").run()?;
    toolchain
        .cargo("build")
        .args(["--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain)?.join("\x1f"))
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(rustc_wrapper::MARKER, "1")
        // Other units of code would have other stack frames, and the object would not be the same everywhere.
        .env("CARGO_INCREMENTAL", "0")
        .run()?;
    let stripped = OBJECTS.map(|object| target.join(object.binary).with_extension("o"));
    for (object, stripped) in OBJECTS.iter().zip(&stripped) {
        let built = target.join(TARGET).join("release").join(object.binary);
        toolchain.strip(&built, stripped)?;
        ensure_nothing_of_this_machine(stripped)?;
        limits::ensure_kept(stripped)?;
    }
    Ok(stripped)
}

/// Flags that say what code is made: with 32-bit arithmetic and jumps, which every kernel has that we run on; and BTF.
const CODE: [&str; 3] = ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Returns the compiler's flags: [`CODE`], and names that are the same on every machine in place of paths.
fn flags(toolchain: &Toolchain) -> anyhow::Result<Vec<String>> {
    let mut flags = CODE.map(str::to_owned).to_vec();
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

/// Ensures that an object names no folder of this machine and no registry: it goes to everybody.
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

/// Returns the record of the objects in the tree.
fn describe(toolchain: &Toolchain) -> anyhow::Result<String> {
    let mut text =
        "# Written by `cargo xtask build-ebpf`, checked by dz-agent/build.rs.\n".to_owned();
    let mut digests = vec![("sources_sha256", record::sources_sha256(shell::root())?)];
    for object in OBJECTS {
        digests.push((object.digest, record::sha256(&read(object.committed)?)));
    }
    for (key, value) in toolchain.versions.iter().chain(&digests) {
        text.push_str(&format!("{key} = \"{value}\"\n"));
    }
    Ok(text)
}

/// Writes a file, unless it has these bytes: then it keeps its time, and cargo does not rebuild the agent for it.
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
