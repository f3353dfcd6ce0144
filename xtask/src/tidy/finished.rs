//! Nothing is left half done, and no file is very long with its unit tests either.

use super::tree::Tree;

/// Most lines of a file, with everything.
const MOST: usize = 500;
/// Put together here, lest this file is found.
const FORBIDDEN: [&str; 3] = [
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("#[", "ignore"),
];

fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, text) in &tree.0 {
        let lines = text.lines().count();
        if lines > MOST {
            faults.push(format!("{file}: {lines} lines, at most {MOST}"));
        }
        for word in FORBIDDEN.iter().filter(|word| text.contains(**word)) {
            faults.push(format!("{file}: {word}"));
        }
    }
    faults
}

#[test]
fn files_are_finished() {
    let faults = faults(&Tree::read());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn unfinished_files_are_found() {
    let unfinished = format!("fn f() {{ {}) }}", FORBIDDEN[0]);
    let long = "// a line\n".repeat(501);
    let tree = Tree::of(&[
        ("a.rs", &unfinished),
        ("b.rs", &long),
        ("c.rs", "fn f() {}"),
    ]);
    assert_eq!(faults(&tree).len(), 2);
}
