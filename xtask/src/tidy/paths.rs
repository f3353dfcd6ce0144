//! References in what macros and attributes are given, for which there is no grammar.

use proc_macro2::{Delimiter, Punct, Spacing, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::Visit;
use syn::{Attribute, Block, Expr, Meta, Token};

use super::methods::segments;
use super::references::Reader;

/// Reads tokens as expressions or statements if they are that, and else looks for paths and calls.
pub(super) fn read(reader: &mut Reader<'_>, tokens: TokenStream) {
    let expressions = Punctuated::<Expr, Token![,]>::parse_terminated;
    if let Ok(expressions) = expressions.parse2(tokens.clone()) {
        for expression in &expressions {
            reader.visit_expr(expression);
        }
    } else if let Ok(statements) = Block::parse_within.parse2(tokens.clone()) {
        for statement in &statements {
            reader.visit_stmt(statement);
        }
    } else {
        read_loose(reader, tokens);
    }
}

/// Attributes name functions in paths and, for serde, in text.
pub(super) fn read_attribute(reader: &mut Reader<'_>, attribute: &Attribute) {
    let Meta::List(list) = &attribute.meta else {
        return;
    };
    let kind = segments(&list.path).join("::");
    if ["cfg", "allow", "expect", "derive", "repr"].contains(&kind.as_str()) {
        return;
    }
    for token in list.tokens.clone() {
        if let TokenTree::Literal(literal) = token
            && let Ok(path) = syn::parse_str::<syn::Path>(literal.to_string().trim_matches('"'))
            && path.segments.len() > 1
        {
            reader.path(&segments(&path), literal.span().start().line);
        }
    }
    read_loose(reader, list.tokens.clone());
}

/// Takes what is joined by `.` and `::` as an expression: with the call behind it, if there is one.
fn read_loose(reader: &mut Reader<'_>, tokens: TokenStream) {
    let mut run: Vec<TokenTree> = Vec::new();
    for token in tokens {
        match &token {
            TokenTree::Ident(_) if !matches!(run.last(), Some(TokenTree::Ident(_))) => {
                run.push(token);
            }
            TokenTree::Punct(punct) if joins(punct, run.last()) => run.push(token),
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Parenthesis {
                    let none = TokenStream::new();
                    let call = proc_macro2::Group::new(Delimiter::Parenthesis, none);
                    run.push(TokenTree::Group(call));
                }
                end(reader, &mut run);
                read(reader, group.stream());
            }
            TokenTree::Ident(_) => {
                end(reader, &mut run);
                run.push(token);
            }
            _ => end(reader, &mut run),
        }
    }
    end(reader, &mut run);
}

/// Whether it is `.` or a part of `::`, behind something.
fn joins(punct: &Punct, before: Option<&TokenTree>) -> bool {
    let second = matches!(before, Some(TokenTree::Punct(first)) if first.as_char() == ':');
    match punct.as_char() {
        '.' => before.is_some(),
        ':' => before.is_some() && (second || punct.spacing() == Spacing::Joint),
        _ => false,
    }
}

fn end(reader: &mut Reader<'_>, run: &mut Vec<TokenTree>) {
    let run = std::mem::take(run);
    if run.len() > 1
        && let Ok(expression) = syn::parse2::<Expr>(run.into_iter().collect())
    {
        reader.visit_expr(&expression);
    }
}
