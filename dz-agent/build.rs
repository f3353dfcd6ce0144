//! Names the BPF object to embed, in `DZ_EBPF_OBJECT_PATH`, and refuses one that is not made of
//! the sources beside it.
//!
//! With the environment variable `DZ_EBPF_OBJECT` set to an absolute path, that object is embedded
//! instead, unchecked: for working on the kernel programs, and for testing a rebuilt object.

// Not a dependency on xtask: nothing of it but the digests is needed to build the agent.
#[path = "../xtask/src/record.rs"]
mod record;

use std::fs;
use std::path::{Path, PathBuf};

use record::{OBJECT, RECORD, SOURCES, STALE};

fn main() {
    println!("cargo::rerun-if-env-changed=DZ_EBPF_OBJECT");
    match object() {
        Ok(path) => println!("cargo::rustc-env=DZ_EBPF_OBJECT_PATH={}", path.display()),
        Err(reason) => println!("cargo::error={reason}"),
    }
}

/// Where the object to embed lies, or the one line that says what is wrong.
fn object() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("DZ_EBPF_OBJECT").map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", path.display());
        return if path.is_absolute() && path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "DZ_EBPF_OBJECT={} is not the absolute path of a file",
                path.display()
            ))
        };
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("dz-agent does not lie in its workspace")?;
    for path in SOURCES.iter().chain(&[OBJECT, RECORD]) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let unreadable = |error| format!("cannot check the committed BPF object: {error}");
    let recorded = fs::read_to_string(root.join(RECORD)).map_err(unreadable)?;
    let sources = record::sources_sha256(root).map_err(unreadable)?;
    if record::field(&recorded, "sources_sha256") != Some(&sources) {
        return Err(STALE.to_owned());
    }
    let object = fs::read(root.join(OBJECT)).map_err(unreadable)?;
    if record::field(&recorded, "object_sha256") != Some(&record::sha256(&object)) {
        return Err(format!(
            "{OBJECT} is not the object that {RECORD} records: run `cargo xtask build-ebpf`"
        ));
    }
    Ok(root.join(OBJECT))
}
