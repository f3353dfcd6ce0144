//! Reads the Rust files of the repository, or makes some up, by their path from the root.

use std::collections::BTreeMap;
use std::fs;

use cargo_metadata::MetadataCommand;

use crate::shell;

/// The text of every file, by its path from the root of the repository.
pub(super) struct Tree(pub(super) BTreeMap<String, String>);

impl Tree {
    /// Reads every Rust file of this repository, without what is built.
    pub(super) fn read() -> Self {
        let root = shell::root();
        let mut folders = vec![root.to_path_buf()];
        let mut files = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                if entry.file_type().unwrap().is_dir() {
                    if name != "target" && !name.starts_with('.') {
                        folders.push(entry.path());
                    }
                } else if name.ends_with(".rs") {
                    let path = entry.path();
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                    files.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
                }
            }
        }
        assert!(files.len() > 20, "only {} files found", files.len());
        Self(files)
    }

    /// Makes up a tree of these files.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let owned = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
        Self(files.iter().map(owned).collect())
    }

    pub(super) fn has(&self, file: &str) -> bool {
        self.0.contains_key(file)
    }
}

/// Finds the first file of every crate of both workspaces: libraries, programs, tests, build scripts.
pub(super) fn roots() -> Vec<String> {
    let root = shell::root();
    let mut roots = Vec::new();
    for manifest in ["Cargo.toml", "dz-ebpf/Cargo.toml"] {
        let mut command = MetadataCommand::new();
        command.manifest_path(root.join(manifest)).no_deps();
        let metadata = command.exec().unwrap();
        for target in metadata
            .packages
            .iter()
            .flat_map(|package| &package.targets)
        {
            let file = target.src_path.as_std_path().strip_prefix(root).unwrap();
            roots.push(file.to_str().unwrap().to_owned());
        }
    }
    roots.sort();
    roots.dedup();
    roots
}
