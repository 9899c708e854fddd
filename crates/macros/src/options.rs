//! What stands in the parentheses of an attribute: `version`, `path`, `crate`, and `combine` of a reducer.

use proc_macro2::{Span, TokenStream};
use syn::meta::ParseNestedMeta;
use syn::parse::Parser as _;
use syn::spanned::Spanned as _;
use syn::{Error, Expr, ExprLit, Lit, LitInt, Path, Result, parse_quote};

/// What was said, or what holds where nothing was.
pub(crate) struct Options {
    /// Raised when the meaning of a kernel changes but its arguments do not.
    pub(crate) version: u32,
    /// The path of the kernel instead of module path and name: a constant string.
    pub(crate) path: Option<Expr>,
    /// What `workring` is called here.
    pub(crate) root: Path,
    /// How two values of a reducer become one.
    pub(crate) combine: Option<Expr>,
}

/// Which options an attribute knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knows {
    Kernel,
    Reducer,
}

impl Options {
    /// Reads them.
    pub(crate) fn parse(tokens: TokenStream, knows: Knows) -> Result<Self> {
        let mut options = Self { version: 1, path: None, root: parse_quote!(::workring), combine: None };
        let mut said: Vec<String> = Vec::new();
        let known = match knows {
            Knows::Kernel => "`version = N`, `path = \"..\"` and `crate = path`",
            Knows::Reducer => "`combine = function`, `version = N`, `path = \"..\"` and `crate = path`",
        };
        let read = syn::meta::parser(|meta: ParseNestedMeta<'_>| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            if said.contains(&name) {
                return Err(meta.error(format!("`{name}` is said twice")));
            }
            match name.as_str() {
                "version" => options.version = meta.value()?.parse::<LitInt>()?.base10_parse()?,
                "path" => options.path = Some(checked(meta.value()?.parse()?)?),
                "crate" => options.root = meta.value()?.call(Path::parse_mod_style)?,
                "combine" if knows == Knows::Reducer => options.combine = Some(meta.value()?.parse()?),
                _ => return Err(meta.error(format!("the options are {known}"))),
            }
            said.push(name);
            Ok(())
        });
        read.parse2(tokens)?;
        if knows == Knows::Reducer && options.combine.is_none() {
            return Err(Error::new(
                Span::call_site(),
                "a reducer needs a rule to combine two values: `#[reducer(combine = |left, right| ..)]`, or the name of a function",
            ));
        }
        Ok(options)
    }
}

/// A path: words between `::`, or what a macro such as `concat!` makes of them, which is not seen here.
fn checked(path: Expr) -> Result<Expr> {
    let value = match &path {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.value(),
        Expr::Macro(_) => return Ok(path),
        _ => return Err(Error::new(path.span(), "a path is a string, `path = \"shapes::area\"`")),
    };
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if value.len() <= 1024 && value.split("::").all(is_word) {
        Ok(path)
    } else {
        Err(Error::new(
            path.span(),
            "a path is made of letters, digits and `_` between `::`, and has at most 1024 bytes",
        ))
    }
}
