//! The code map in ARCHITECTURE.md names what is there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell;

#[test]
fn everything_in_the_code_map_exists() {
    let Ok(text) = fs::read_to_string(shell::root().join("ARCHITECTURE.md")) else {
        return; // not written yet: nothing in it can be wrong
    };
    let missing = missing(&text, |path| shell::root().join(path).exists());
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md names {}",
        missing.join(", ")
    );
}

/// The paths named in the section "Code map" that do not exist. A path is what stands in
/// backquotes and has a slash or ends in `.rs`; it may be relative to the `src` of the crate that
/// was named last.
fn missing(text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
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
            } else if (name.contains('/') || name.ends_with(".rs"))
                && !exists(Path::new(name))
                && !exists(&folder.join(name))
            {
                missing.push(name.to_owned());
            }
        }
    }
    missing
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
    let missing = missing(text, |path| {
        tree.iter().any(|known| Path::new(known) == path)
    });
    assert_eq!(missing, ["net/gone.rs"]);
}
