//! Which file refers to what in which other file of its crate.

use std::collections::{BTreeSet, HashMap};

use proc_macro2::Span;
use syn::visit::{self, Visit};
use syn::{
    Attribute, ExprClosure, ExprMethodCall, Field, FnArg, ImplItemFn, Item, ItemFn, ItemImpl,
    ItemUse, Local, Macro, Pat, PatIdent, Signature, Visibility,
};

use super::crates::{Crate, attributes, only_for_tests};
use super::methods::{Here, Known, Types, of_type, segments};
use super::paths;
use super::scope::{Meaning, Scope, imports};

/// One file refers to something in another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) from: String,
    pub(super) to: String,
    /// From the root of the crate: `net::routes::Routes::add`.
    pub(super) item: String,
    pub(super) line: usize,
    /// A call of a method of which nothing but the name and the number of arguments is known. The
    /// file names the type, or no other type has such a method.
    pub(super) guessed: bool,
}

/// All references between files of a crate: of the same ones to the same item the first.
pub(super) fn references(krate: &Crate) -> Vec<Reference> {
    let scope = Scope::of(krate);
    let types = Types::of(krate, &scope);
    let mut found = Vec::new();
    for (at, module) in krate.modules.iter().enumerate() {
        let mut reader = Reader {
            krate,
            scope: &scope,
            types: &types,
            at,
            of: None,
            locals: HashMap::new(),
            found: Vec::new(),
        };
        for item in &module.items {
            reader.visit_item(item);
        }
        found.extend(reader.found);
    }
    let named: BTreeSet<_> = (found.iter().filter(|reference| !reference.guessed))
        .map(|reference| (reference.from.clone(), reference.item.clone()))
        .collect();
    found.retain(|reference| {
        let (of, method) = reference.item.rsplit_once("::").unwrap_or_default();
        let names_it = || named.contains(&(reference.from.clone(), of.to_owned()));
        !reference.guessed || types.is_only_one(method) || names_it()
    });
    found.sort();
    found.dedup_by(|later, first| {
        (&later.from, &later.to, &later.item) == (&first.from, &first.to, &first.item)
    });
    found
}

pub(super) struct Reader<'a> {
    krate: &'a Crate,
    scope: &'a Scope,
    types: &'a Types,
    at: usize,
    /// What `Self` is.
    of: Option<Known>,
    locals: HashMap<String, Known>,
    found: Vec<Reference>,
}

impl Reader<'_> {
    fn here(&self) -> Here<'_> {
        Here {
            scope: self.scope,
            at: self.at,
            of: self.of.as_ref(),
            locals: &self.locals,
        }
    }

    fn refer(&mut self, to: usize, item: &[&str], line: usize, guessed: bool) {
        let (from, module) = (&self.krate.modules[self.at], &self.krate.modules[to]);
        if from.file == module.file {
            return;
        }
        let mut path = module.path.clone();
        path.extend(item.iter().map(ToString::to_string));
        self.found.push(Reference {
            from: from.file.clone(),
            to: module.file.clone(),
            item: path.join("::"),
            line,
            guessed,
        });
    }

    pub(super) fn path(&mut self, path: &[String], line: usize) {
        if let ([first, method, ..], Some(Known::Ours(id))) = (path, self.of.clone())
            && first == "Self"
        {
            let modules: BTreeSet<_> = self.types.modules_of(&id, method).collect();
            for module in modules {
                self.refer(module, &[&id.1, method], line, false);
            }
            return;
        }
        for found in self.scope.resolve(self.at, path) {
            match found.meaning {
                Meaning::Module(_) => (),
                Meaning::Made(module, name) => self.refer(module, &[&name], line, false),
                Meaning::Item(module, name) => {
                    self.refer(module, &[&name], line, false);
                    let id = (module, name);
                    let method = found.rest.first().map_or("", String::as_str);
                    let modules: BTreeSet<_> = self.types.modules_of(&id, method).collect();
                    for module in modules {
                        self.refer(module, &[&id.1, method], line, false);
                    }
                }
            }
        }
    }

    fn call(&mut self, call: &ExprMethodCall) {
        let method = call.method.to_string();
        let line = line(call.method.span());
        let known = self.types.of_value(&call.receiver, &self.here());
        let (types, certain) = match &known {
            Known::Ours(id) => (vec![id], true),
            Known::Foreign => return,
            Known::Unknown => (self.types.with_method(&method, call.args.len()), false),
        };
        for id in &types {
            let modules: BTreeSet<_> = self.types.modules_of(id, &method).collect();
            if modules.contains(&self.at) {
                continue;
            }
            // Where a type has other methods, the name of one is enough.
            let alone = types.len() == 1;
            let certain = certain || (alone && self.types.spread(id).contains(&self.at));
            for module in modules {
                self.refer(module, &[&id.1, &method], line, !certain);
            }
        }
    }

    /// Reads a function with the types of its parameters.
    fn function(&mut self, signature: &Signature, read: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.locals);
        for argument in &signature.inputs {
            let (name, known) = match argument {
                FnArg::Receiver(_) => ("self".to_owned(), self.of.clone()),
                FnArg::Typed(typed) => {
                    let of = self.of.as_ref();
                    let known = of_type(self.scope, self.at, of, &typed.ty, false);
                    match &*typed.pat {
                        Pat::Ident(name) => (name.ident.to_string(), Some(known)),
                        _ => continue,
                    }
                }
            };
            self.locals.insert(name, known.unwrap_or(Known::Unknown));
        }
        read(self);
        self.locals = before;
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in imports(item) {
            self.path(&import.path, import.line);
        }
    }

    fn visit_item_impl(&mut self, block: &'ast ItemImpl) {
        let of = of_type(self.scope, self.at, None, &block.self_ty, false);
        let before = self.of.replace(of);
        visit::visit_item_impl(self, block);
        self.of = before;
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        visit::visit_signature(self, &item.sig);
        self.function(&item.sig, |reader| reader.visit_block(&item.block));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !only_for_tests(&item.attrs) {
            visit::visit_signature(self, &item.sig);
            self.function(&item.sig, |reader| reader.visit_block(&item.block));
        }
    }

    fn visit_field(&mut self, field: &'ast Field) {
        if !only_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if only_for_tests(&local.attrs) {
            return;
        }
        let of = self.of.as_ref();
        let known = match (&local.pat, &local.init) {
            (Pat::Type(typed), _) => of_type(self.scope, self.at, of, &typed.ty, false),
            (_, Some(init)) => self.types.of_value(&init.expr, &self.here()),
            _ => Known::Unknown,
        };
        // What it is made of is read before its name hides another one.
        if let Some(init) = &local.init {
            self.visit_expr(&init.expr);
            if let Some((_, diverging)) = &init.diverge {
                self.visit_expr(diverging);
            }
        }
        self.visit_pat(&local.pat);
        let name = match &local.pat {
            Pat::Type(typed) => &typed.pat,
            other => other,
        };
        if let Pat::Ident(name) = name {
            self.locals.insert(name.ident.to_string(), known);
        }
    }

    fn visit_expr_closure(&mut self, closure: &'ast ExprClosure) {
        let before = self.locals.clone();
        visit::visit_expr_closure(self, closure);
        self.locals = before;
    }

    /// A name that a pattern gives hides what had it before.
    fn visit_pat_ident(&mut self, name: &'ast PatIdent) {
        self.locals.insert(name.ident.to_string(), Known::Unknown);
        visit::visit_pat_ident(self, name);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let named = segments(path);
        // A name alone may be that of a variable; an import of it has been seen.
        let alone = named.len() == 1 && !named[0].starts_with(char::is_uppercase);
        if !alone && path.leading_colon.is_none() {
            self.path(&named, line(path.segments[0].ident.span()));
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.call(call);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.visit_path(&called.path);
        paths::read(self, called.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        paths::read_attribute(self, attribute);
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn line(span: Span) -> usize {
    span.start().line
}
