//! No files of a crate refer to each other in a circle.
//!
//! File A refers to file B if something in A names something that is defined in B, through whatever
//! imports and re-exports, or calls a method that a value of known type has in B. To declare a module
//! is no reference; to re-export from it is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::crates::Crate;
use super::exceptions;
use super::references::{Reference, references};
use super::tree::{Tree, roots};

type Files = BTreeSet<String>;

/// Sets of files of which each reaches each other one.
fn cycles(references: &[Reference]) -> Vec<Files> {
    let mut direct: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for reference in references.iter().filter(|reference| !reference.guessed) {
        direct
            .entry(&reference.from)
            .or_default()
            .insert(&reference.to);
    }
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            for to in direct.get(file).into_iter().flatten() {
                if reached.insert(*to) {
                    next.push(to);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = direct.keys().map(|file| (*file, reach(file))).collect();
    let mut found = BTreeSet::new();
    for (file, reaches) in &reached {
        let back = |other: &&&str| reached.get(**other).is_some_and(|its| its.contains(file));
        let cycle: Files = reaches
            .iter()
            .filter(back)
            .map(ToString::to_string)
            .collect();
        if !cycle.is_empty() {
            found.insert(cycle);
        }
    }
    found.into_iter().collect()
}

/// A cycle as a reader needs it to untie it: every reference between two of its files.
fn described(cycle: &Files, references: &[Reference]) -> String {
    let mut text = String::new();
    for file in cycle {
        writeln!(text, "    \"{file}\",").unwrap();
    }
    for reference in references.iter().filter(|reference| !reference.guessed) {
        let Reference {
            from,
            to,
            item,
            line,
            ..
        } = reference;
        if cycle.contains(from) && cycle.contains(to) {
            writeln!(text, "  {from}:{line} → {item} → {to}").unwrap();
        }
    }
    text
}

/// What is wrong with the cycles found, beside those that are excepted.
fn faults(tree: &Tree, found: &[(Files, String)], excepted: &[&[&str]]) -> Vec<String> {
    let covers = |exception: &[&str], cycle: &Files| {
        cycle.iter().all(|file| exception.contains(&file.as_str()))
    };
    let mut faults = Vec::new();
    for (cycle, text) in found {
        if !excepted.iter().any(|exception| covers(exception, cycle)) {
            let new = beside(cycle, excepted);
            faults.push(format!(
                "{} files refer to each other in a circle, new among them {}:\n{text}",
                cycle.len(),
                new.join(", ")
            ));
        }
    }
    for exception in excepted {
        if !found.iter().any(|(cycle, _)| covers(exception, cycle)) {
            faults.push(format!(
                "no cycle is left among these: take them out of exceptions::CYCLES: {}",
                exception.join(", ")
            ));
        }
    }
    for file in excepted.iter().copied().flatten() {
        if !tree.has(file) {
            faults.push(format!("{file} is gone: take it out of exceptions::CYCLES"));
        }
    }
    faults
}

/// The files of a cycle that the exception nearest to it does not have.
fn beside<'a>(cycle: &'a Files, excepted: &[&[&str]]) -> Vec<&'a str> {
    let missing = |exception: &&[&str]| {
        let files = cycle.iter().map(String::as_str);
        files.filter(|file| !exception.contains(file)).collect()
    };
    let nearest = excepted.iter().map(missing).min_by_key(Vec::len);
    nearest.unwrap_or_else(|| missing(&&[][..]))
}

fn all(tree: &Tree, roots: &[&str]) -> Vec<(Files, String)> {
    let mut found = BTreeMap::new();
    for root in roots {
        let references = references(&Crate::load(tree, root));
        for cycle in cycles(&references) {
            let text = described(&cycle, &references);
            found.insert(cycle, text);
        }
    }
    found.into_iter().collect()
}

#[test]
fn no_files_refer_to_each_other_in_a_circle() {
    let tree = Tree::read();
    let roots = roots();
    let roots: Vec<_> = roots.iter().map(String::as_str).collect();
    let found = all(&tree, &roots);
    for (cycle, text) in &found {
        println!("{} files, a circle:\n{text}", cycle.len());
    }
    let faults = faults(&tree, &found, exceptions::CYCLES);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The cycles of a made-up crate, as names of files without their ending.
fn of(files: &[(&str, &str)]) -> Vec<String> {
    let found = all(&Tree::of(files), &["lib.rs"]);
    let joined = |(cycle, _): (Files, _)| Vec::from_iter(cycle).join(" ").replace(".rs", "");
    found.into_iter().map(joined).collect()
}

#[test]
fn references_make_cycles_and_declarations_none() {
    let straight = [
        ("lib.rs", "mod a; mod b; pub use a::A;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        (
            "b.rs",
            "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
        ),
    ];
    assert!(of(&straight).is_empty());
    let by_path = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub struct A(crate::b::B);"),
        ("b.rs", "pub struct B; fn f() { let _ = super::a::g(); }"),
    ];
    assert_eq!(of(&by_path), ["a b"]);
    let parent_and_child = [
        (
            "lib.rs",
            "mod a; use a::f; pub struct Thing; fn g() { f() }",
        ),
        ("a.rs", "use super::Thing; pub fn f() {}"),
    ];
    assert_eq!(of(&parent_and_child), ["a lib"]);
    let by_attribute = [
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "struct A { #[serde(with = \"crate::b::text\")] a: u8 }\n\
             pub struct O { #[arg(default = 1, value_parser = crate::b::parse)] o: u8 }",
        ),
        (
            "b.rs",
            "pub fn parse() {} pub mod text { type A = crate::a::O; }",
        ),
    ];
    assert_eq!(of(&by_attribute), ["a b"]);
    let three = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b;\nfn f() { b::f(); }"),
        ("b.rs", "use crate::c::*; pub fn f() -> C { C }"),
        (
            "c.rs",
            "pub struct C; use super::a as other; type T = other::A;",
        ),
        ("d.rs", "use crate::a::f;"),
    ];
    assert_eq!(of(&three), ["a b c"]);
}

#[test]
fn reexports_are_followed_to_where_things_are_defined() {
    let through = [
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod x; pub use self::x::X as Renamed;"),
        ("a/x.rs", "use crate::b::g; pub struct X;"),
        ("b.rs", "use crate::a::Renamed; pub fn g() {}"),
    ];
    assert_eq!(of(&through), ["a/x b"]);
    let function_and_module = [
        ("lib.rs", "mod a; pub use a::c::a; mod b;"),
        ("a/mod.rs", "pub mod c; pub const X: u8 = 0;"),
        ("a/c.rs", "use crate::b::f; pub fn a() { f() }"),
        ("b.rs", "use crate::a::X; pub fn f() {}"),
    ];
    assert!(of(&function_and_module).is_empty());
}

#[test]
fn methods_of_one_type_in_several_files_make_cycles() {
    let by_self = [
        ("lib.rs", "mod e; mod a; mod b;"),
        ("e.rs", "pub struct E;"),
        (
            "a.rs",
            "use crate::e::E; impl E { pub fn one(&self) { self.two() } }",
        ),
        (
            "b.rs",
            "use crate::e::E; impl E { pub fn two(&self) { E::one(self) } }",
        ),
    ];
    assert_eq!(of(&by_self), ["a b"]);
    let in_a_macro = [
        ("lib.rs", "mod e; mod a; mod b;"),
        ("e.rs", "pub struct E;"),
        (
            "a.rs",
            "use crate::e::E; impl E { fn one(&self) { select! { x = self.two() => y, } } }",
        ),
        (
            "b.rs",
            "use crate::e::E; impl E { fn two(&self) { println!(\"{}\", Self::one(self)) } }",
        ),
    ];
    assert_eq!(of(&in_a_macro), ["a b"]);
    let anothers = [
        ("lib.rs", "mod e; mod a; mod b; mod p;"),
        ("e.rs", "use crate::p::P; pub struct E { pub p: P }"),
        ("p.rs", "pub struct P; impl P { pub fn two(&self) {} }"),
        (
            "a.rs",
            "use crate::e::E; impl E { pub fn one(&self) { self.p.two() } }",
        ),
        (
            "b.rs",
            "use crate::e::E; impl E { pub fn two(&self) { self.one() } }",
        ),
    ];
    assert!(of(&anothers).is_empty());
    let with_the_type = [
        ("lib.rs", "mod e; mod a;"),
        ("e.rs", "pub struct E; fn f(e: &mut E) { e.one() }"),
        ("a.rs", "use crate::e::E; impl E { pub fn one(&self) {} }"),
    ];
    assert_eq!(of(&with_the_type), ["a e"]);
}

#[test]
fn a_new_cycle_and_an_exception_without_one_are_found() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B;\npub struct A;"),
        ("b.rs", "\n\nuse crate::a::A; pub struct B;"),
    ];
    let tree = Tree::of(&files);
    let found = all(&tree, &["lib.rs"]);
    assert!(faults(&tree, &found, &[&["a.rs", "b.rs", "lib.rs"]]).is_empty());
    let new = faults(&tree, &found, &[]).concat();
    let edges = "  a.rs:1 → b::B → b.rs\n  b.rs:3 → a::A → a.rs\n";
    assert!(new.contains(edges), "{new}");
    let other = faults(&tree, &found, &[&["a.rs", "lib.rs"]]);
    assert_eq!(other.len(), 2);
    assert!(other[0].contains("new among them b.rs:"), "{}", other[0]);
    assert_eq!(faults(&tree, &found, &[&["a.rs", "b.rs", "c.rs"]]).len(), 1);
    assert_eq!(faults(&tree, &[], &[&["a.rs", "b.rs"]]).len(), 1);
}
