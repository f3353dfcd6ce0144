//! What is known of types without a compiler: their methods, the types of their fields and of what
//! functions return. Enough to say which type's method most calls mean.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syn::{
    Expr, Fields, GenericArgument, ImplItem, Item, ItemImpl, Member, PathArguments, ReturnType,
    Signature, Type,
};

use super::crates::{Crate, only_for_tests};
use super::scope::{Meaning, Scope};

/// A type of this crate: its module, its name.
pub(super) type TypeId = (usize, String);

/// What is known of the type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Ours(TypeId),
    Foreign,
    Unknown,
}

struct Method {
    at: usize,
    /// How many arguments a call behind `.` has; none if it is no such method.
    arguments: Option<usize>,
    returns: Known,
}

/// The types of a crate, and its functions.
#[derive(Default)]
pub(super) struct Types {
    methods: HashMap<TypeId, BTreeMap<String, Vec<Method>>>,
    fields: HashMap<TypeId, HashMap<String, Known>>,
    functions: HashMap<TypeId, Known>,
}

impl Types {
    pub(super) fn of(krate: &Crate, scope: &Scope) -> Self {
        let mut types = Self::default();
        for (at, module) in krate.modules.iter().enumerate() {
            for item in &module.items {
                types.add(scope, at, item);
            }
        }
        types
    }

    fn add(&mut self, scope: &Scope, at: usize, item: &Item) {
        match item {
            Item::Struct(item) => {
                let id = (at, item.ident.to_string());
                let mut known = HashMap::new();
                if let Fields::Named(fields) = &item.fields {
                    for field in &fields.named {
                        let name = field.ident.as_ref().unwrap().to_string();
                        known.insert(name, of_type(scope, at, None, &field.ty, false));
                    }
                }
                self.fields.insert(id, known);
            }
            Item::Fn(item) => {
                let returns = returned(scope, at, None, &item.sig);
                self.functions
                    .insert((at, item.sig.ident.to_string()), returns);
            }
            Item::Impl(item) => self.add_methods(scope, at, item),
            _ => (),
        }
    }

    fn add_methods(&mut self, scope: &Scope, at: usize, block: &ItemImpl) {
        let of = of_type(scope, at, None, &block.self_ty, false);
        let Known::Ours(id) = &of else {
            return;
        };
        if block.trait_.is_some() {
            return;
        }
        for item in &block.items {
            let (name, attributes, arguments, returns) = match item {
                ImplItem::Fn(item) => {
                    let signature = &item.sig;
                    let arguments = signature.receiver().map(|_| signature.inputs.len() - 1);
                    let returns = returned(scope, at, Some(&of), signature);
                    (&signature.ident, &item.attrs, arguments, returns)
                }
                ImplItem::Const(item) => (&item.ident, &item.attrs, None, Known::Unknown),
                _ => continue,
            };
            if !only_for_tests(attributes) {
                let methods = self.methods.entry(id.clone()).or_default();
                let same = methods.entry(name.to_string()).or_default();
                same.push(Method {
                    at,
                    arguments,
                    returns,
                });
            }
        }
    }

    /// The paths of all functions and methods.
    pub(super) fn functions(&self, krate: &Crate) -> Vec<String> {
        let path = |at: usize, rest: &[&str]| {
            let above = krate.modules[at].path.iter().map(String::as_str);
            above
                .chain(rest.iter().copied())
                .collect::<Vec<_>>()
                .join("::")
        };
        let functions = self.functions.keys().map(|(at, name)| path(*at, &[name]));
        let methods = self.methods.iter().flat_map(|((_, of), all)| {
            let places = move |(name, same): (&String, &Vec<Method>)| path(same[0].at, &[of, name]);
            all.iter().map(places)
        });
        functions.chain(methods).collect()
    }

    /// The modules where a type's method of that name is.
    pub(super) fn modules_of(&self, id: &TypeId, method: &str) -> impl Iterator<Item = usize> {
        let methods = self.methods.get(id).and_then(|all| all.get(method));
        methods.into_iter().flatten().map(|method| method.at)
    }

    /// The modules in which a type has methods.
    pub(super) fn spread(&self, id: &TypeId) -> BTreeSet<usize> {
        let methods = self.methods.get(id).into_iter().flatten();
        methods
            .flat_map(|(_, same)| same.iter().map(|method| method.at))
            .collect()
    }

    /// The types that have a method of that name, with as many arguments.
    pub(super) fn with_method(&self, method: &str, arguments: usize) -> Vec<&TypeId> {
        let has = |same: &Vec<Method>| same.iter().any(|one| one.arguments == Some(arguments));
        let having = (self.methods.iter()).filter(|(_, all)| all.get(method).is_some_and(has));
        having.map(|(id, _)| id).collect()
    }

    /// Whether one type alone has a method of that name.
    pub(super) fn is_only_one(&self, method: &str) -> bool {
        let having = self.methods.values().filter(|all| all.contains_key(method));
        having.count() == 1
    }

    /// The type of an expression's value, with what is known of local variables. Of a `Result` or
    /// an `Option` that a function returns, that of what is in it.
    pub(super) fn of_value(&self, value: &Expr, here: &Here<'_>) -> Known {
        match value {
            Expr::Path(path) => match path.path.get_ident() {
                Some(name) => {
                    let local = here.locals.get(&name.to_string());
                    local.cloned().unwrap_or(Known::Unknown)
                }
                None => Known::Unknown,
            },
            Expr::Field(field) => match (self.of_value(&field.base, here), &field.member) {
                (Known::Ours(id), Member::Named(name)) => {
                    let known = self
                        .fields
                        .get(&id)
                        .and_then(|all| all.get(&name.to_string()));
                    known.cloned().unwrap_or(Known::Unknown)
                }
                _ => Known::Unknown,
            },
            Expr::MethodCall(call) => {
                let method = call.method.to_string();
                let of = self.of_value(&call.receiver, here);
                if let Known::Ours(id) = &of
                    && let Some(same) = self.methods.get(id).and_then(|all| all.get(&method))
                {
                    return same[0].returns.clone();
                }
                match method.as_str() {
                    "clone" | "as_ref" | "as_mut" | "as_deref" | "unwrap" | "expect"
                    | "context" => of,
                    _ => Known::Unknown,
                }
            }
            Expr::Call(call) => match &*call.func {
                Expr::Path(path) => self.of_call(&segments(&path.path), here),
                _ => Known::Unknown,
            },
            Expr::Struct(literal) => {
                of_path(here.scope, here.at, here.of, &segments(&literal.path))
            }
            Expr::Try(inner) => self.of_value(&inner.expr, here),
            Expr::Await(inner) => self.of_value(&inner.base, here),
            Expr::Reference(inner) => self.of_value(&inner.expr, here),
            Expr::Paren(inner) => self.of_value(&inner.expr, here),
            Expr::Unary(inner) => self.of_value(&inner.expr, here),
            _ => Known::Unknown,
        }
    }

    fn of_call(&self, path: &[String], here: &Here<'_>) -> Known {
        if let (Some(Known::Ours(id)), [first, method]) = (here.of, path)
            && first == "Self"
        {
            let same = self.methods.get(id).and_then(|all| all.get(method));
            return same.map_or(Known::Unknown, |same| same[0].returns.clone());
        }
        for found in here.scope.resolve(here.at, path) {
            let Meaning::Item(at, name) = found.meaning else {
                continue;
            };
            let id = (at, name);
            let known = match found.rest.first() {
                Some(method) => {
                    let same = self.methods.get(&id).and_then(|all| all.get(method));
                    same.map(|same| &same[0].returns)
                }
                None => self.functions.get(&id),
            };
            if let Some(known) = known {
                return known.clone();
            }
        }
        Known::Unknown
    }
}

/// Where an expression stands.
pub(super) struct Here<'a> {
    pub(super) scope: &'a Scope,
    pub(super) at: usize,
    /// What `Self` is.
    pub(super) of: Option<&'a Known>,
    pub(super) locals: &'a HashMap<String, Known>,
}

pub(super) fn segments(path: &syn::Path) -> Vec<String> {
    let segments = path.segments.iter();
    segments.map(|segment| segment.ident.to_string()).collect()
}

fn returned(scope: &Scope, at: usize, of: Option<&Known>, signature: &Signature) -> Known {
    match &signature.output {
        ReturnType::Type(_, returned) => of_type(scope, at, of, returned, true),
        ReturnType::Default => Known::Foreign,
    }
}

/// What a type means where it stands. Through references and owning pointers; with `unwrap` that of
/// what is in a `Result` or an `Option`, too.
pub(super) fn of_type(
    scope: &Scope,
    at: usize,
    of: Option<&Known>,
    written: &Type,
    unwrap: bool,
) -> Known {
    let path = match written {
        Type::Reference(inner) => return of_type(scope, at, of, &inner.elem, unwrap),
        Type::Paren(inner) => return of_type(scope, at, of, &inner.elem, unwrap),
        Type::Path(path) if path.qself.is_none() => &path.path,
        Type::Tuple(_) | Type::Array(_) | Type::Slice(_) | Type::ImplTrait(_) => {
            return Known::Foreign;
        }
        _ => return Known::Unknown,
    };
    let segments = segments(path);
    let last = path.segments.last();
    let through = last.is_some_and(|last| match last.ident.to_string().as_str() {
        "Arc" | "Box" | "Rc" => true,
        "Option" | "Result" => unwrap,
        _ => false,
    });
    if through
        && let Some(PathArguments::AngleBracketed(arguments)) = last.map(|last| &last.arguments)
        && let Some(GenericArgument::Type(inner)) = arguments.args.first()
    {
        return of_type(scope, at, of, inner, unwrap);
    }
    of_path(scope, at, of, &segments)
}

fn of_path(scope: &Scope, at: usize, of: Option<&Known>, path: &[String]) -> Known {
    if path == ["Self"] {
        return of.cloned().unwrap_or(Known::Unknown);
    }
    let found = scope.resolve(at, path).into_iter();
    let mut ours = found.filter_map(|found| match found.meaning {
        Meaning::Item(at, name) => Some(Known::Ours((at, name))),
        _ => None,
    });
    // What is no name of this crate is foreign. So is a parameter: its methods are those of its traits.
    ours.next().unwrap_or(Known::Foreign)
}
