//! What the committed BPF object was built from: a record beside it holds digests.
//!
//! Included by `dz-agent/build.rs` too, so it uses nothing but `sha2`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The committed object, relative to the workspace.
pub(crate) const OBJECT: &str = "dz-ebpf/object/dz-ebpf.o";
/// The record of both, relative to the workspace.
pub(crate) const RECORD: &str = "dz-ebpf/object/dz-ebpf.toml";
/// What they are built from: files and folders, relative to the workspace.
pub(crate) const SOURCES: [&str; 6] = [
    "dz-common/Cargo.toml",
    "dz-common/src",
    "dz-ebpf/bench",
    "dz-ebpf/Cargo.lock",
    "dz-ebpf/Cargo.toml",
    "dz-ebpf/src",
];
/// What is wrong when the digests differ, and what to do.
pub(crate) const STALE: &str =
    "the committed BPF object is older than dz-ebpf or dz-common: run `cargo xtask build-ebpf`";

/// SHA-256 of [`SOURCES`], names included, in hexadecimal.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn sources_sha256(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        list(root, PathBuf::from(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(root.join(&file))?;
        // With lengths, so that no two trees hash alike by moving a boundary.
        for part in [file.as_os_str().as_encoded_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The value of `key = "value"` in a record.
pub(crate) fn field<'a>(record: &'a str, key: &str) -> Option<&'a str> {
    record.lines().find_map(|line| {
        let (name, value) = line.split_once(" = ")?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        (name == key).then_some(value)
    })
}

fn list(root: &Path, path: PathBuf, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !root.join(&path).is_dir() {
        files.push(path);
        return Ok(());
    }
    for entry in fs::read_dir(root.join(&path))? {
        list(root, path.join(entry?.file_name()), files)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String does not fail
        text
    })
}
