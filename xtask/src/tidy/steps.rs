//! Every step of the transaction has a test, and every such test a step.

use std::fs;

use super::tree::Tree;
use crate::shell;

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
    let tree = Tree::read();
    let files = (tree.0.iter()).filter(|(file, _)| file.starts_with("tests/tests/"));
    let sources: String = files.map(|(_, text)| text.as_str()).collect();
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
