//! Maps, links and routes are written by the hands alone: below them are only the rooms that know how.

use std::collections::BTreeSet;

use super::crates::Crate;
use super::exceptions;
use super::methods::Types;
use super::references::references;
use super::scope::Scope;
use super::tree::Tree;

/// The one place from which everything is written.
const HANDS: [&str; 2] = ["dz-agent/src/engine/hands.rs", "dz-agent/src/engine/hands/"];

/// Everything that writes, by the end of its path, and the room that it is in, which may call it, too.
const WRITERS: &[(&str, &str)] = &[
    ("Attachment::detach", DATAPATH),
    ("Datapath::attach", DATAPATH),
    ("Datapath::begin", DATAPATH),
    ("Datapath::control", DATAPATH),
    ("Datapath::load", DATAPATH),
    ("Datapath::ready", DATAPATH),
    ("Datapath::transmit", DATAPATH),
    ("Maps::beat", DATAPATH),
    ("Maps::clear_counters", DATAPATH),
    ("Maps::confine", DATAPATH),
    ("Maps::delete_local", DATAPATH),
    ("Maps::delete_session", DATAPATH),
    ("Maps::insert_session", DATAPATH),
    ("Maps::prepare_slot", DATAPATH),
    ("Maps::discard", DATAPATH),
    ("Maps::release", DATAPATH),
    ("Maps::set_config", DATAPATH),
    ("Maps::set_due", DATAPATH),
    ("Maps::set_local", DATAPATH),
    ("Maps::set_peer", DATAPATH),
    ("Maps::set_slot", DATAPATH),
    ("Pin::remove", DATAPATH),
    ("Stray::detach", DATAPATH),
    ("filters::detach", DATAPATH),
    ("upgrade::take_over", DATAPATH),
    ("Netlink::change", NET),
    ("Routes::add", NET),
    ("Routes::delete", NET),
];
const DATAPATH: &str = "dz-agent/src/datapath/";
const NET: &str = "dz-agent/src/net/";

/// Calls of writers by who must not: the writer, the file, where.
type Call = (&'static str, String, String);

fn calls(krate: &Crate, writers: &[(&'static str, &str)]) -> BTreeSet<Call> {
    let mut found = BTreeSet::new();
    for reference in references(krate) {
        let is_it = |writer: &str| ends_with(&reference.item, writer);
        for (writer, room) in writers.iter().filter(|(writer, _)| is_it(writer)) {
            let may = HANDS.iter().chain([room]);
            if !may.into_iter().any(|may| reference.from.starts_with(may)) {
                let place = format!("{}:{}", reference.from, reference.line);
                found.insert((*writer, reference.from.clone(), place));
            }
        }
    }
    found
}

/// Writers in the list that the crate does not have: such a line would hold for nothing.
fn gone(krate: &Crate, writers: &[(&'static str, &str)]) -> Vec<&'static str> {
    let defined = Types::of(krate, &Scope::of(krate)).functions(krate);
    let is_gone = |writer: &str| !defined.iter().any(|path| ends_with(path, writer));
    let writers = writers.iter().map(|(writer, _)| *writer);
    writers.filter(|writer| is_gone(writer)).collect()
}

fn ends_with(path: &str, end: &str) -> bool {
    let before = path.strip_suffix(end);
    before.is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

fn faults(calls: &BTreeSet<Call>, excepted: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (writer, file, place) in calls {
        if !excepted.contains(&(writer, file)) {
            faults.push(format!("{place} calls {writer}: only the hands may"));
        }
    }
    for (writer, file) in excepted {
        if !calls
            .iter()
            .any(|(called, by, _)| called == writer && by == file)
        {
            faults.push(format!(
                "{file} does not call {writer}: take it out of exceptions::WRITERS"
            ));
        }
    }
    faults
}

#[test]
fn only_the_hands_write() {
    let krate = Crate::load(&Tree::read(), "dz-agent/src/lib.rs");
    let gone = gone(&krate, WRITERS);
    assert!(
        gone.is_empty(),
        "writers that are gone: {}",
        gone.join(", ")
    );
    let calls = calls(&krate, WRITERS);
    let faults = faults(&calls, exceptions::WRITERS);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn who_else_writes_is_found() {
    let tree = Tree::of(&[
        ("dz-agent/src/lib.rs", "mod datapath; mod engine;"),
        (
            "dz-agent/src/datapath/mod.rs",
            "pub struct Maps; impl Maps { pub fn write(&mut self) {} pub fn add(&self) {} }\n\
             pub fn free() {} fn own(maps: &Maps) { maps.add() }",
        ),
        (
            "dz-agent/src/engine/mod.rs",
            "mod hands; mod known; mod other; mod guess;",
        ),
        (
            "dz-agent/src/engine/hands.rs",
            "fn f(maps: &crate::datapath::Maps) { maps.write() }",
        ),
        (
            "dz-agent/src/engine/known.rs",
            "use crate::datapath::{self, Maps};\nstruct E { maps: Maps }\n\
             impl E { fn f(&self) { if let Err(e) = self.maps.write() {}\n datapath::free() } }",
        ),
        (
            "dz-agent/src/engine/other.rs",
            "pub struct Sum; impl Sum { pub fn add(&self) {} } fn f(sum: &Sum, x: X) { sum.add() }",
        ),
        (
            "dz-agent/src/engine/guess.rs",
            "fn f() { for maps in x() { maps.write(); maps.add() } }",
        ),
    ]);
    let writers = [
        ("Maps::write", DATAPATH),
        ("Maps::add", DATAPATH),
        ("datapath::free", DATAPATH),
        ("Maps::gone", DATAPATH),
    ];
    let krate = Crate::load(&tree, "dz-agent/src/lib.rs");
    assert_eq!(gone(&krate, &writers), ["Maps::gone"]);
    let calls = calls(&krate, &writers);
    let places: Vec<_> = calls
        .iter()
        .map(|(writer, _, place)| format!("{writer} {place}"))
        .collect();
    let engine = "dz-agent/src/engine";
    let expected = [
        format!("Maps::write {engine}/guess.rs:1"),
        format!("Maps::write {engine}/known.rs:3"),
        format!("datapath::free {engine}/known.rs:4"),
    ];
    assert_eq!(places, expected);
    let known = "dz-agent/src/engine/known.rs";
    let excepted = [
        ("Maps::write", known),
        ("datapath::free", known),
        ("Maps::add", known),
    ];
    let faults = faults(&calls, &excepted);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("guess.rs:1") && faults[1].contains("take it out"));
}
