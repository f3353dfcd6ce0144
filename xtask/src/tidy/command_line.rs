//! Nobody but `main.rs` knows the command line.

use std::collections::BTreeMap;

use super::crates::Crate;
use super::exceptions;
use super::references::references;
use super::tree::Tree;

fn is_command_line(file: &str) -> bool {
    file == "dz-agent/src/cli.rs" || file.starts_with("dz-agent/src/cli/")
}

/// Who refers to the command line, and where first. `main.rs` is a crate of its own.
fn importers(krate: &Crate) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for reference in references(krate) {
        if is_command_line(&reference.to) && !is_command_line(&reference.from) {
            let place = format!("{}:{}: {}", reference.from, reference.line, reference.item);
            found.entry(reference.from).or_insert(place);
        }
    }
    found
}

fn faults(found: &BTreeMap<String, String>, excepted: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, place) in found {
        if !excepted.contains(&file.as_str()) {
            faults.push(format!("{place}: only main.rs may import the command line"));
        }
    }
    for file in excepted.iter().filter(|file| !found.contains_key(**file)) {
        faults.push(format!(
            "{file} does not import it: take it out of exceptions::COMMAND_LINE"
        ));
    }
    faults
}

#[test]
fn only_main_knows_the_command_line() {
    let found = importers(&Crate::load(&Tree::read(), "dz-agent/src/lib.rs"));
    let faults = faults(&found, exceptions::COMMAND_LINE);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn who_else_knows_it_is_found() {
    let tree = Tree::of(&[
        ("dz-agent/src/lib.rs", "pub mod a; pub mod b; pub mod cli;"),
        (
            "dz-agent/src/cli.rs",
            "mod run; pub use run::Run; use crate::b::B;",
        ),
        ("dz-agent/src/cli/run.rs", "pub struct Run;"),
        ("dz-agent/src/a.rs", "\nfn f(run: crate::cli::Run) {}"),
        (
            "dz-agent/src/b.rs",
            "pub struct B; #[cfg(test)] use crate::cli::Run;",
        ),
    ]);
    let found = importers(&Crate::load(&tree, "dz-agent/src/lib.rs"));
    assert_eq!(
        found["dz-agent/src/a.rs"],
        "dz-agent/src/a.rs:2: cli::run::Run"
    );
    let faults = faults(&found, &["dz-agent/src/b.rs"]);
    assert_eq!(faults.len(), 2, "{faults:?}");
}
