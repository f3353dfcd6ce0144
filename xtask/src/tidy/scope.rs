//! Names: which item of which module a path means, through imports and re-exports.

use std::collections::HashMap;

use syn::visit::{self, Visit};
use syn::{Item, ItemUse, UseTree};

use super::crates::{Crate, only_for_tests};

/// So many imports of imports are followed: a circle of them ends somewhere.
const DEPTH: u8 = 16;

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Meaning {
    Module(usize),
    /// An item in a module, by name.
    Item(usize, String),
    /// Something that a module must have, for a path goes there, but that a macro makes.
    Made(usize, String),
}

/// What a path means, and its segments behind an item: a variant, or what is in an `impl`.
pub(super) struct Found {
    pub(super) meaning: Meaning,
    pub(super) rest: Vec<String>,
}

enum Name {
    Module(usize),
    Item,
    Import(Vec<String>),
}

#[derive(Default)]
struct Names {
    named: HashMap<String, Vec<Name>>,
    globs: Vec<Vec<String>>,
}

/// The names of a crate.
pub(super) struct Scope {
    names: Vec<Names>,
    parents: Vec<Option<usize>>,
}

impl Scope {
    pub(super) fn of(krate: &Crate) -> Self {
        let mut names: Vec<_> = krate.modules.iter().map(|_| Names::default()).collect();
        let mut parents = vec![None; krate.modules.len()];
        for (index, module) in krate.modules.iter().enumerate() {
            if let Some((last, above)) = module.path.split_last() {
                let parent = krate.at(above).unwrap();
                parents[index] = Some(parent);
                let named = names[parent].named.entry(last.clone()).or_default();
                named.push(Name::Module(index));
            }
            for item in &module.items {
                if let Some(name) = name(item) {
                    let named = names[index].named.entry(name).or_default();
                    named.push(Name::Item);
                }
            }
            // Imports within functions are taken as the module's: that errs on the side of an edge.
            let mut imports = Imports(Vec::new());
            module
                .items
                .iter()
                .for_each(|item| imports.visit_item(item));
            for import in imports.0 {
                if import.alias == "*" {
                    names[index].globs.push(import.path);
                } else {
                    let named = names[index].named.entry(import.alias).or_default();
                    named.push(Name::Import(import.path));
                }
            }
        }
        Self { names, parents }
    }

    /// Everything that a path means in a module: the same name may be that of a function, too.
    /// Nothing if it leads out of the crate.
    pub(super) fn resolve(&self, at: usize, path: &[String]) -> Vec<Found> {
        self.follow(at, path, DEPTH)
    }

    fn follow(&self, at: usize, path: &[String], depth: u8) -> Vec<Found> {
        let Some((first, rest)) = path.split_first() else {
            return Vec::new();
        };
        let start = match first.as_str() {
            "crate" => vec![Meaning::Module(0)],
            "self" => vec![Meaning::Module(at)],
            "super" => vec![Meaning::Module(self.parents[at].unwrap_or(0))],
            name => self.look_up(at, name, depth).unwrap_or_default(),
        };
        let mut found = Vec::new();
        for meaning in leading(start, rest) {
            self.walk(meaning, rest, depth, &mut found);
        }
        found
    }

    fn walk(&self, meaning: Meaning, rest: &[String], depth: u8, found: &mut Vec<Found>) {
        let (Meaning::Module(module), Some((name, below))) = (&meaning, rest.split_first()) else {
            let rest = rest.to_vec();
            return found.push(Found { meaning, rest });
        };
        if name == "super" {
            let parent = Meaning::Module(self.parents[*module].unwrap_or(0));
            return self.walk(parent, below, depth, found);
        }
        match self.look_up(*module, name, depth) {
            Some(meanings) => {
                for meaning in leading(meanings, below) {
                    self.walk(meaning, below, depth, found);
                }
            }
            None => found.push(Found {
                meaning: Meaning::Made(*module, name.clone()),
                rest: below.to_vec(),
            }),
        }
    }

    /// What a name means in a module: none if it has no such name, nothing if it is foreign.
    fn look_up(&self, at: usize, name: &str, depth: u8) -> Option<Vec<Meaning>> {
        let names = &self.names[at];
        let Some(depth) = depth.checked_sub(1) else {
            return Some(Vec::new());
        };
        let mut meanings = Vec::new();
        for named in names.named.get(name).into_iter().flatten() {
            match named {
                Name::Module(module) => meanings.push(Meaning::Module(*module)),
                Name::Item => meanings.push(Meaning::Item(at, name.to_owned())),
                Name::Import(path) => {
                    let found = self.follow(at, path, depth).into_iter();
                    meanings.extend(found.map(|found| found.meaning));
                }
            }
        }
        if names.named.contains_key(name) {
            meanings.sort();
            meanings.dedup();
            return Some(meanings);
        }
        let mut foreign = false;
        for glob in &names.globs {
            let found = self.follow(at, glob, depth);
            foreign |= found.is_empty();
            for found in found {
                if let Meaning::Module(module) = found.meaning
                    && module != at
                    && let Some(more) = self.look_up(module, name, depth)
                {
                    meanings.extend(more);
                }
            }
        }
        (foreign || !meanings.is_empty()).then_some(meanings)
    }
}

/// In front of more segments, what is also the name of a module is that.
fn leading(mut meanings: Vec<Meaning>, rest: &[String]) -> Vec<Meaning> {
    let is_module = |meaning: &Meaning| matches!(meaning, Meaning::Module(_));
    if !rest.is_empty() && meanings.iter().any(is_module) {
        meanings.retain(is_module);
    }
    meanings
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

/// An import: the path, and the name that it gets here (`*` for all).
pub(super) struct Import {
    pub(super) path: Vec<String>,
    pub(super) alias: String,
    pub(super) line: usize,
}

struct Imports(Vec<Import>);

impl Visit<'_> for Imports {
    fn visit_item_use(&mut self, item: &ItemUse) {
        if !only_for_tests(&item.attrs) {
            self.0.extend(imports(item));
        }
    }

    fn visit_item_mod(&mut self, _: &syn::ItemMod) {}

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if !only_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }
}

/// The imports of one `use`. Nothing of `use ::name`: that is foreign.
pub(super) fn imports(item: &ItemUse) -> Vec<Import> {
    let mut found = Vec::new();
    if item.leading_colon.is_none() {
        flatten(&item.tree, &mut Vec::new(), &mut found);
    }
    found
}

fn flatten(tree: &UseTree, above: &mut Vec<String>, found: &mut Vec<Import>) {
    let mut push = |name: Option<&syn::Ident>, alias: String, line: usize| {
        let mut path = above.clone();
        path.extend(name.filter(|name| *name != "self").map(ToString::to_string));
        found.push(Import { path, alias, line });
    };
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            flatten(&path.tree, above, found);
            above.pop();
        }
        UseTree::Name(name) => {
            let last = above.last().filter(|_| name.ident == "self");
            let alias = last.cloned().unwrap_or_else(|| name.ident.to_string());
            push(Some(&name.ident), alias, name.ident.span().start().line);
        }
        UseTree::Rename(name) => {
            let line = name.ident.span().start().line;
            push(Some(&name.ident), name.rename.to_string(), line);
        }
        UseTree::Glob(glob) => {
            let line = glob.star_token.spans[0].start().line;
            push(None, "*".to_owned(), line);
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, above, found);
            }
        }
    }
}
