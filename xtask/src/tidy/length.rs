//! Files are short: one idea is read at once.

use proc_macro2::LineColumn;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ImplItemFn, Item};

use super::crates::{attributes, only_for_tests};
use super::exceptions;
use super::tree::Tree;

/// Most lines of a file, without its unit tests.
const MOST: usize = 400;
/// A state machine is read as one.
const LONGER: [(&str, usize); 1] = [("dz-common/src/session.rs", 480)];

/// Counts the lines of unit tests.
struct Tests(usize);

impl Tests {
    fn count(&mut self, from: LineColumn, to: LineColumn) {
        self.0 += to.line + 1 - from.line;
    }
}

impl<'ast> Visit<'ast> for Tests {
    fn visit_item(&mut self, item: &'ast Item) {
        if only_for_tests(attributes(item)) {
            self.count(item.span().start(), item.span().end());
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if only_for_tests(&item.attrs) {
            self.count(item.span().start(), item.span().end());
        }
    }
}

fn lines(text: &str) -> Result<usize, syn::Error> {
    let mut tests = Tests(0);
    tests.visit_file(&syn::parse_file(text)?);
    Ok(text.lines().count() - tests.0)
}

fn faults(tree: &Tree, excepted: &[(&str, usize)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, text) in &tree.0 {
        if file.ends_with("/tests.rs") {
            continue;
        }
        let lines = lines(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let longer = LONGER.iter().find(|(longer, _)| longer == file);
        let most = longer.map_or(MOST, |(_, most)| *most);
        let allowed = excepted.iter().find(|(excepted, _)| excepted == file);
        match allowed {
            Some((_, allowed)) if lines <= most || lines < *allowed => faults.push(format!(
                "{file}: {lines} lines, fewer than exceptions::LENGTH says ({allowed}): make it \
                 less there, or take it out at {most}"
            )),
            _ if lines > allowed.map_or(most, |(_, allowed)| *allowed) => {
                faults.push(format!(
                    "{file}: {lines} lines without unit tests, at most {most}"
                ));
            }
            _ => (),
        }
    }
    for (file, _) in excepted.iter().filter(|(file, _)| !tree.has(file)) {
        faults.push(format!("{file} is gone: take it out of exceptions::LENGTH"));
    }
    faults
}

#[test]
fn files_are_short() {
    let faults = faults(&Tree::read(), exceptions::LENGTH);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn long_files_are_found() {
    let lines = |count| "// a line\n".repeat(count);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(200));
    let with_tests = lines(400) + &tests;
    let too_long = lines(401) + &tests;
    let tree = Tree::of(&[
        ("a.rs", &too_long),
        ("b.rs", &with_tests),
        ("b/tests.rs", &lines(600)),
        ("dz-common/src/session.rs", &lines(480)),
    ]);
    assert_eq!(
        faults(&tree, &[]),
        ["a.rs: 401 lines without unit tests, at most 400"]
    );
    assert!(faults(&tree, &[("a.rs", 401)]).is_empty());
    let loose = faults(&tree, &[("a.rs", 402), ("b.rs", 400), ("c.rs", 500)]);
    assert_eq!(loose.len(), 3, "{loose:?}");
}
