//! The code map in ARCHITECTURE.md names what is there, and every file of the agent.

use std::fs;
use std::path::{Path, PathBuf};

use super::tree::Tree;
use crate::shell;

/// The files of which each is named, or in a folder that is.
const AGENT: &str = "dz-agent/src/";

#[test]
fn everything_in_the_code_map_exists() {
    let text = fs::read_to_string(shell::root().join("ARCHITECTURE.md")).unwrap();
    let map = read(&text, |path| shell::root().join(path).exists());
    let missing = map.missing;
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md names {}",
        missing.join(", ")
    );
}

#[test]
fn every_file_of_the_agent_is_in_the_code_map() {
    let text = fs::read_to_string(shell::root().join("ARCHITECTURE.md")).unwrap();
    let map = read(&text, |path| shell::root().join(path).exists());
    let unnamed = unnamed(&Tree::read(), &map.named);
    assert!(
        unnamed.is_empty(),
        "the code map in ARCHITECTURE.md names neither these files nor (with a slash at the end) \
         their folders: {}",
        unnamed.join(", ")
    );
}

/// Files of the agent that are not in the map. Unit tests are where what they test is.
fn unnamed(tree: &Tree, named: &[PathBuf]) -> Vec<String> {
    let is_named = |file: &str| {
        let is_it = |name: &PathBuf| {
            let name = name.to_str().unwrap();
            name == file || (name.ends_with('/') && name != AGENT && file.starts_with(name))
        };
        file.ends_with("/tests.rs") || named.iter().any(is_it)
    };
    let files = tree.0.keys().filter(|file| file.starts_with(AGENT));
    files.filter(|file| !is_named(file)).cloned().collect()
}

/// What the section "Code map" names, from the root: what is there, and what is not.
struct CodeMap {
    named: Vec<PathBuf>,
    missing: Vec<String>,
}

/// Reads the paths in the section "Code map". A path is what stands in backquotes and has a slash
/// or ends in `.rs`; it may be relative to the `src` of the crate that was named last.
fn read(text: &str, exists: impl Fn(&Path) -> bool) -> CodeMap {
    let mut named = Vec::new();
    let mut missing = Vec::new();
    let mut level = None;
    let mut folder = PathBuf::new();
    for line in text.lines() {
        let depth = line.len() - line.trim_start_matches('#').len();
        if depth > 0 && level.is_none_or(|level| depth <= level) {
            level = line.to_lowercase().contains("code map").then_some(depth);
        }
        if level.is_none() {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2) {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if !name.chars().all(is_name) || name.starts_with('/') {
                continue;
            }
            if exists(&Path::new(name).join("src")) {
                folder = Path::new(name).join("src");
            } else if name.contains('/') || name.ends_with(".rs") {
                let below = folder.join(name);
                if exists(&below) {
                    named.push(below);
                } else if exists(Path::new(name)) {
                    named.push(PathBuf::from(name));
                } else {
                    missing.push(name.to_owned());
                }
            }
        }
    }
    CodeMap { named, missing }
}

#[test]
fn a_wrong_code_map_is_found() {
    let text = "# A\n`gone.rs`\n## Code map\n### `dz-agent`\n`cli.rs`, `net/gone.rs`, `/v1`, `a b/c`\n\
                - `dz-common/src/map.rs`\n## B\n`gone/too`\n";
    let tree = [
        "dz-agent/src",
        "dz-agent/src/cli.rs",
        "dz-common/src/map.rs",
    ];
    let map = read(text, |path| {
        tree.iter().any(|known| Path::new(known) == path)
    });
    assert_eq!(map.missing, ["net/gone.rs"]);
    let named = ["dz-agent/src/cli.rs", "dz-common/src/map.rs"];
    assert_eq!(map.named, named.map(PathBuf::from));
}

#[test]
fn files_that_the_code_map_does_not_name_are_found() {
    let tree = Tree::of(&[
        ("dz-agent/src/cli.rs", ""),
        ("dz-agent/src/cli/tests.rs", ""),
        ("dz-agent/src/host/a.rs", ""),
        ("dz-agent/src/new.rs", ""),
        ("dz-common/src/map.rs", ""),
    ]);
    let text = "## Code map\n### `dz-agent`\n`cli.rs` and `host/`: `dz-agent/src/`\n";
    let map = read(text, |path| {
        let file = path.to_str().unwrap();
        file == "dz-agent/src" || tree.0.keys().any(|known| known.starts_with(file))
    });
    assert_eq!(unnamed(&tree, &map.named), ["dz-agent/src/new.rs"]);
}
