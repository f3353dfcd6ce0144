//! The engine has few members, and its owners keep what they own to themselves.

use syn::{Field, Fields, ImplItem, Item, ItemImpl, ItemStruct, ReceiverKind, Type, Visibility};

use super::crates::{attributes, only_for_tests};
use super::exceptions;
use super::tree::Tree;

const ENGINE: &str = "dz-agent/src/engine/";
/// Where the owners are.
const STATE: &str = "dz-agent/src/engine/state/";
/// Most members of `Engine`.
const MOST_MEMBERS: usize = 13;
/// Most fields of an owner.
const MOST_FIELDS: usize = 8;

fn shipped(items: &[Item]) -> impl Iterator<Item = &Item> {
    (items.iter()).filter(|item| !only_for_tests(attributes(item)))
}

fn structs(items: &[Item]) -> Vec<&ItemStruct> {
    let mut found = Vec::new();
    for item in shipped(items) {
        match item {
            Item::Struct(item) => found.push(item),
            Item::Mod(module) => {
                let within = module.content.as_ref().map(|(_, items)| items);
                found.extend(within.map(|items| structs(items)).unwrap_or_default());
            }
            _ => (),
        }
    }
    found
}

fn fields(item: &ItemStruct) -> Vec<&Field> {
    match &item.fields {
        Fields::Named(fields) => fields.named.iter().collect(),
        Fields::Unnamed(fields) => fields.unnamed.iter().collect(),
        Fields::Unit => Vec::new(),
    }
}

/// The types that change: those with a method that takes `&mut self`. What is handed in and out as
/// a whole, such as a key, owns nothing.
fn changing(items: &[Item]) -> Vec<String> {
    let implementations = items.iter().filter_map(|item| match item {
        Item::Impl(item) if item.trait_.is_none() => Some(item),
        _ => None,
    });
    let changes = |item: &&ItemImpl| {
        item.items.iter().any(|item| match item {
            ImplItem::Fn(function) => function.sig.receiver().is_some_and(|receiver| {
                matches!(receiver.kind, ReceiverKind::Reference(_, _, Some(_)))
            }),
            _ => false,
        })
    };
    let names = implementations
        .filter(changes)
        .map(|item| match &*item.self_ty {
            Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        });
    names.flatten().collect()
}

/// How many members `Engine` has; none if there is no such struct.
fn members(tree: &Tree) -> Option<usize> {
    let files = tree.0.iter().filter(|(file, _)| file.starts_with(ENGINE));
    files.into_iter().find_map(|(file, text)| {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let engine = structs(&parsed.items)
            .into_iter()
            .find(|item| item.ident == "Engine");
        engine.map(|engine| fields(engine).len())
    })
}

fn size_fault(members: usize, excepted: Option<usize>) -> Option<String> {
    let most = excepted.unwrap_or(MOST_MEMBERS);
    if members > most {
        return Some(format!("Engine has {members} members, at most {most}"));
    }
    let loose = excepted.is_some_and(|excepted| members < excepted || members <= MOST_MEMBERS);
    loose.then(|| {
        format!(
            "Engine has {members} members, fewer than exceptions::ENGINE_MEMBERS says: make it \
             less there, or None at {MOST_MEMBERS}"
        )
    })
}

/// Owners of which others may write something, or that own too much.
fn owner_faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, text) in tree.0.iter().filter(|(file, _)| file.starts_with(STATE)) {
        if file.ends_with("/tests.rs") {
            continue;
        }
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        // What is private in a module is visible in those below it.
        let below = |item: &Item| matches!(item, Item::Mod(module) if module.content.is_none());
        let has_files_below = shipped(&parsed.items).any(below);
        let changing = changing(&parsed.items);
        let owners: Vec<_> = structs(&parsed.items)
            .into_iter()
            .filter(|item| changing.contains(&item.ident.to_string()))
            .collect();
        let is_test = |item: &Item| only_for_tests(attributes(item));
        if !owners.is_empty() && !parsed.items.iter().any(is_test) {
            faults.push(format!("{file}: an owner without unit tests"));
        }
        for item in owners {
            let (name, fields) = (&item.ident, fields(item));
            if fields.len() > MOST_FIELDS {
                let count = fields.len();
                faults.push(format!(
                    "{file}: {name} has {count} fields, at most {MOST_FIELDS}"
                ));
            }
            if has_files_below && !fields.is_empty() {
                faults.push(format!(
                    "{file}: the fields of {name} are visible in files below it"
                ));
            }
            for (index, field) in fields.iter().enumerate() {
                if !matches!(field.vis, Visibility::Inherited) {
                    let field = field.ident.as_ref().map(ToString::to_string);
                    let field = field.unwrap_or_else(|| index.to_string());
                    faults.push(format!(
                        "{file}: {name}.{field} is visible outside its file"
                    ));
                }
            }
        }
    }
    faults
}

#[test]
fn the_engine_has_few_members() {
    let members = members(&Tree::read()).expect("there is no struct Engine");
    let fault = size_fault(members, exceptions::ENGINE_MEMBERS);
    assert!(fault.is_none(), "{}", fault.unwrap_or_default());
}

#[test]
fn owners_keep_what_they_own_to_themselves() {
    let faults = owner_faults(&Tree::read());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn an_engine_that_grows_is_found() {
    let fields: String = (0..14).map(|index| format!("f{index}: u8, ")).collect();
    let engine = format!("struct Engine {{ {fields} #[cfg(test)] test: u8 }}");
    let tree = Tree::of(&[("dz-agent/src/engine/mod.rs", &engine)]);
    assert_eq!(members(&tree), Some(15));
    assert!(size_fault(14, None).is_some());
    assert!(size_fault(13, None).is_none());
    assert!(size_fault(14, Some(14)).is_none());
    assert!(size_fault(14, Some(15)).is_some());
    assert!(size_fault(13, Some(13)).is_some());
}

#[test]
fn owners_that_are_open_or_own_too_much_are_found() {
    let nine: String = (0..9).map(|index| format!("f{index}: u8, ")).collect();
    let nine = format!(
        "struct Bag {{ {nine} }} impl Bag {{ fn set(&mut self) {{}} }} #[cfg(test)] mod t {{ struct T {{ pub x: u8 }} }}"
    );
    let tree = Tree::of(&[
        (
            "dz-agent/src/engine/state/mod.rs",
            "mod a; mod b; struct Top { a: u8 } impl Top { fn set(&mut self) {} } #[cfg(test)] mod tests;",
        ),
        (
            "dz-agent/src/engine/state/a.rs",
            "pub struct A { a: u8, pub(super) b: u8 } struct B(pub u8); pub struct Key { pub a: u8 } \
             impl A { fn set(&mut self) {} } impl B { fn set(&mut self) {} } impl Key { fn get(&self) {} }",
        ),
        ("dz-agent/src/engine/state/b.rs", &nine),
        ("dz-agent/src/engine/other.rs", "pub struct A { pub a: u8 }"),
    ]);
    let state = "dz-agent/src/engine/state";
    let expected = [
        format!("{state}/a.rs: an owner without unit tests"),
        format!("{state}/a.rs: A.b is visible outside its file"),
        format!("{state}/a.rs: B.0 is visible outside its file"),
        format!("{state}/b.rs: Bag has 9 fields, at most 8"),
        format!("{state}/mod.rs: the fields of Top are visible in files below it"),
    ];
    assert_eq!(owner_faults(&tree), expected);
}
