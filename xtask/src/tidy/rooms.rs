//! The picture of the rooms in ARCHITECTURE.md is what the code is: a room imports rooms further down only.

use std::collections::BTreeMap;
use std::fs;

use super::crates::Crate;
use super::references::{Reference, references};
use super::tree::Tree;
use crate::shell;

const ROOT: &str = "dz-agent/src/lib.rs";
const SOURCES: &str = "dz-agent/src/";
const ENGINE: &str = "dz-agent/src/engine/";

/// The rooms of a picture, each with how far down it is; those of the last line may be imported by all.
struct Picture {
    /// Where the rooms are.
    folder: String,
    levels: BTreeMap<String, usize>,
}

impl Picture {
    /// Reads the picture whose first line names its folder.
    fn of(text: &str, folder: &str) -> Self {
        let mut lines = text.lines().skip_while(|line| line.trim() != folder);
        lines
            .next()
            .unwrap_or_else(|| panic!("no picture of {folder}"));
        let lines = lines.take_while(|line| !line.starts_with("```"));
        let mut levels = BTreeMap::new();
        for (level, line) in lines.enumerate() {
            for room in line.split_whitespace() {
                let twice = levels.insert(room.to_owned(), level);
                assert!(twice.is_none(), "{room} is in the picture twice");
            }
        }
        let folder = folder.to_owned();
        Self { folder, levels }
    }

    /// The room that a file is in: the folder or file below that of the picture.
    fn room<'a>(&self, file: &'a str) -> Option<&'a str> {
        let within = file.strip_prefix(&self.folder)?;
        let first = within.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    fn faults(&self, references: &[Reference]) -> Vec<String> {
        let mut faults = Vec::new();
        let certain = references.iter().filter(|reference| !reference.guessed);
        for Reference {
            from,
            to,
            item,
            line,
            ..
        } in certain
        {
            let (Some(a), Some(b)) = (self.room(from), self.room(to)) else {
                continue;
            };
            if a == b || a == "mod" || a == "lib" {
                continue;
            }
            match (self.levels.get(a), self.levels.get(b)) {
                (Some(a), Some(b)) if a < b => {}
                (Some(_), Some(_)) => {
                    faults.push(format!("{from}:{line}: {a} imports {b} ({item})"))
                }
                (None, _) => faults.push(format!("{a} ({from}) is not in the picture")),
                (_, None) => faults.push(format!("{b} ({to}) is not in the picture")),
            }
        }
        faults.sort();
        faults.dedup();
        faults
    }
}

#[test]
fn rooms_import_what_is_further_down_in_the_picture() {
    let text = fs::read_to_string(shell::root().join("ARCHITECTURE.md")).unwrap();
    let references = references(&Crate::load(&Tree::read(), ROOT));
    assert!(
        references.len() > 500,
        "only {} references",
        references.len()
    );
    let mut faults = Picture::of(&text, SOURCES).faults(&references);
    faults.extend(Picture::of(&text, ENGINE).faults(&references));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn an_import_upwards_or_of_a_neighbour_is_a_fault() {
    let picture = Picture::of("```text\na/\n  b  c\n  d\n```\n", "a/");
    let reference = |from: &str, to: &str| Reference {
        from: format!("a/{from}"),
        to: format!("a/{to}"),
        item: String::new(),
        line: 1,
        guessed: false,
    };
    for (from, to, fault) in [
        ("b/x.rs", "d.rs", false),
        ("b/x.rs", "b/y.rs", false),
        ("d.rs", "c.rs", true),
        ("b.rs", "c/y.rs", true),
        ("e.rs", "d.rs", true),
        ("b.rs", "e.rs", true),
    ] {
        let found = picture.faults(&[reference(from, to)]);
        assert_eq!(!found.is_empty(), fault, "{from} → {to}: {found:?}");
    }
}
