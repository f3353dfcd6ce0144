//! From the first file of a crate to its modules, without what only its unit tests have.

use syn::{Attribute, Expr, Item, Lit, Meta};

use super::tree::Tree;

/// A module: a file, or a part of one.
pub(super) struct Module {
    /// From the root of the crate, which has none.
    pub(super) path: Vec<String>,
    pub(super) file: String,
    pub(super) items: Vec<Item>,
}

/// A crate, as its modules: the root is the first one.
pub(super) struct Crate {
    pub(super) modules: Vec<Module>,
}

impl Crate {
    /// Follows `mod` from the first file of a crate.
    pub(super) fn load(tree: &Tree, root: &str) -> Self {
        let mut found = Self {
            modules: Vec::new(),
        };
        found.add_file(tree, Vec::new(), root, folder(root).to_owned());
        found
    }

    pub(super) fn at(&self, path: &[String]) -> Option<usize> {
        self.modules.iter().position(|module| module.path == path)
    }

    fn add_file(&mut self, tree: &Tree, path: Vec<String>, file: &str, children: String) {
        let text = tree
            .0
            .get(file)
            .unwrap_or_else(|| panic!("{file} is not there"));
        let parsed = syn::parse_file(text).unwrap_or_else(|error| {
            let line = error.span().start().line;
            panic!("{file}:{line}: {error}")
        });
        self.add(tree, path, file, &children, parsed.items);
    }

    /// Adds a module and those below it. `children`: the folder where their files are.
    fn add(
        &mut self,
        tree: &Tree,
        path: Vec<String>,
        file: &str,
        children: &str,
        items: Vec<Item>,
    ) {
        let index = self.modules.len();
        self.modules.push(Module {
            path: path.clone(),
            file: file.to_owned(),
            items: Vec::new(),
        });
        let mut own = Vec::new();
        for item in items {
            if only_for_tests(attributes(&item)) {
                continue;
            }
            let Item::Mod(module) = item else {
                own.push(item);
                continue;
            };
            let name = module.ident.to_string();
            let mut path = path.clone();
            path.push(name.clone());
            if let Some((_, items)) = module.content {
                self.add(tree, path, file, &join(children, &name), items);
            } else if let Some(place) = place(&module.attrs) {
                let file = join(folder(file), &place);
                self.add_file(tree, path, &file, folder(&file).to_owned());
            } else {
                let beside = join(children, &format!("{name}.rs"));
                let within = join(children, &format!("{name}/mod.rs"));
                let file = if tree.has(&beside) { beside } else { within };
                self.add_file(tree, path, &file, join(children, &name));
            }
        }
        self.modules[index].items = own;
    }
}

/// Whether `#[cfg(test)]`, also as one of several conditions, leaves it out of what is shipped.
pub(super) fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else {
            return false;
        };
        let condition = list.tokens.to_string().replace(' ', "");
        let all = condition.strip_prefix("all(");
        let all = all.and_then(|conditions| conditions.strip_suffix(')'));
        list.path.is_ident("cfg")
            && (all.unwrap_or(&condition))
                .split(',')
                .any(|condition| condition == "test")
    })
}

pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// What `#[path = "…"]` says.
fn place(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        match &pair.value {
            Expr::Lit(literal) if pair.path.is_ident("path") => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        }
    })
}

fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Joins two paths; `..` at the beginning of the second one goes up.
fn join(mut upper: &str, mut lower: &str) -> String {
    while let Some(rest) = lower.strip_prefix("../") {
        (upper, lower) = (folder(upper), rest);
    }
    let slash = if upper.is_empty() { "" } else { "/" };
    format!("{upper}{slash}{lower}")
}

#[test]
fn modules_are_where_rustc_looks_for_them() {
    let tree = Tree::of(&[
        (
            "x/src/main.rs",
            "mod a; mod b { mod c; } #[cfg(test)] mod t;",
        ),
        ("x/src/a.rs", "mod d; #[path = \"../../y.rs\"] mod y;"),
        (
            "x/src/a/d/mod.rs",
            "#[cfg(all(test, feature = \"f\"))] mod t;",
        ),
        ("x/src/b/c.rs", ""),
        ("y.rs", ""),
    ]);
    let found = Crate::load(&tree, "x/src/main.rs");
    let found: Vec<_> = (found.modules.iter())
        .map(|module| (module.path.join("::"), module.file.as_str()))
        .collect();
    let expected = [
        ("", "x/src/main.rs"),
        ("a", "x/src/a.rs"),
        ("a::d", "x/src/a/d/mod.rs"),
        ("a::y", "y.rs"),
        ("b", "x/src/main.rs"),
        ("b::c", "x/src/b/c.rs"),
    ];
    assert_eq!(found, expected.map(|(path, file)| (path.to_owned(), file)));
}
