//! Says which BPF object is embedded: the committed one, or that of `DZ_EBPF_OBJECT`.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=DZ_EBPF_OBJECT");
    let committed = || {
        let root = std::env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .unwrap_or_default();
        root.join("../dz-ebpf/object/dz-ebpf.o")
    };
    let object = std::env::var_os("DZ_EBPF_OBJECT").map_or_else(committed, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=DZ_EBPF_OBJECT_PATH={}", object.display());
}
