//! What can be checked about the tree itself.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell;

const MAX_LINES: usize = 500;
/// Put together here, lest this file is found.
const FORBIDDEN: [&str; 3] = [
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("#[", "ignore"),
];

/// Every Rust file, without what is built.
fn rust_files() -> Vec<PathBuf> {
    let mut folders = vec![shell::root().to_path_buf()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(entry.path());
                }
            } else if name.ends_with(".rs") {
                files.push(entry.path());
            }
        }
    }
    files
}

#[test]
fn files_are_short_and_finished() {
    let files = rust_files();
    assert!(files.len() > 20, "only {} files found", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if lines > MAX_LINES {
            found.push(format!(
                "{}: {lines} lines, at most {MAX_LINES}",
                file.display()
            ));
        }
        for word in FORBIDDEN.iter().filter(|word| text.contains(**word)) {
            found.push(format!("{}: {word}", file.display()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

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

/// Where the steps of the transaction are.
const STEPS: &str = "The transaction, step by step";

#[test]
fn every_step_has_its_test() {
    let text = fs::read_to_string(shell::root().join("ARCHITECTURE.md")).unwrap();
    let rows = rows(&text);
    assert!(
        rows.len() > 20,
        "only {} rows under \"{STEPS}\"",
        rows.len()
    );
    let tests = shell::root().join("tests/tests");
    let files = rust_files()
        .into_iter()
        .filter(|file| file.starts_with(&tests));
    let sources: String = files
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut faults = Vec::new();
    for (index, (row, test)) in rows.iter().enumerate() {
        if rows[..index].iter().any(|(other, _)| other == row) {
            faults.push(format!("{row} stands there twice"));
        }
        if test.is_empty() || !sources.contains(&format!("\"{test}\"")) {
            faults.push(format!("{row}: there is no test `{test}`"));
        }
    }
    for test in sources.split("\"rows::").skip(1) {
        let name = test.split('"').next().unwrap_or_default();
        let name = format!("rows::{name}");
        if !rows.iter().any(|(_, test)| *test == name) {
            faults.push(format!("{name} is the test of no row"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rows of the tables of steps: a letter and a number, and the test in backquotes at the end.
fn rows(text: &str) -> Vec<(&str, &str)> {
    let steps = text
        .split("\n## ")
        .find(|section| section.starts_with(STEPS));
    let mut rows = Vec::new();
    for line in steps.unwrap_or_default().lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, row, .., test, _] = cells[..] else {
            continue;
        };
        let numbered = |row: &str| row.chars().skip(1).all(|c| c.is_ascii_digit());
        if row.starts_with(|c: char| c.is_ascii_uppercase()) && row.len() > 1 && numbered(row) {
            rows.push((row, test.trim_matches('`')));
        }
    }
    rows
}

#[test]
fn rows_of_steps_are_found() {
    let text = "# A\n## The transaction, step by step\n| row | step | test |\n|---|---|---|\n\
                | C1 | written | `rows::c1` |\n| D12 | gone | |\n## B\n| E1 | x | `y` |\n";
    assert_eq!(rows(text), [("C1", "rows::c1"), ("D12", "")]);
}
