//! What the arguments of a kernel mean: inputs, outputs, the parameter, the context.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned as _;
use syn::{Attribute, Error, FnArg, Ident, Pat, PatType, Result, Signature, Type};

/// The most inputs and outputs of a kernel, as in `workring`.
const INPUTS_MAX: usize = 8;
const OUTPUTS_MAX: usize = 4;

/// The arguments of a kernel, by what they mean. Each has a local name that nothing in the kernel's scope can have.
#[derive(Default)]
pub(crate) struct Arguments {
    /// Element types of the inputs, in their order.
    pub(crate) inputs: Vec<(Ident, Type)>,
    /// Inputs that each chunk sees whole, by the bit of their number.
    pub(crate) whole: u8,
    /// Element types of the outputs.
    pub(crate) outputs: Vec<(Ident, Type)>,
    /// The parameter.
    pub(crate) param: Option<(Ident, Type)>,
    /// The context, as it was written behind `&mut`.
    pub(crate) context: Option<(Ident, Type)>,
    /// The local names of all, in the order of the function's arguments.
    pub(crate) names: Vec<Ident>,
    /// The types of all, as they were written.
    pub(crate) types: Vec<Type>,
    /// The arguments as text, the same for every compiler: part of the kernel's signature.
    pub(crate) text: String,
}

impl Arguments {
    /// Sorts the arguments of a function; all that is wrong with them is said at once.
    pub(crate) fn of(signature: &Signature) -> Result<Self> {
        let mut arguments = Self::default();
        let mut errors: Option<Error> = None;
        for argument in &signature.inputs {
            if let Err(error) = arguments.add(argument, &signature.ident) {
                match &mut errors {
                    None => errors = Some(error),
                    Some(errors) => errors.combine(error),
                }
            }
        }
        errors.map_or(Ok(arguments), Err)
    }

    fn add(&mut self, argument: &FnArg, kernel: &Ident) -> Result<()> {
        let argument = match argument {
            FnArg::Receiver(receiver) => {
                return Err(Error::new(receiver.span(), "a kernel is a function of its own, not a method"));
            }
            FnArg::Typed(argument) => argument,
        };
        if let Some(attribute) = argument.attrs.iter().find(|attribute| is_conditional(attribute.path())) {
            return Err(Error::new(
                attribute.span(),
                "an argument of a kernel is there always; put the condition on the kernel and write two",
            ));
        }
        if let Pat::Ident(pattern) = &*argument.pat
            && pattern.ident == *kernel
        {
            return Err(Error::new(
                pattern.ident.span(),
                "an argument cannot have the name of its kernel, which is a value of that name",
            ));
        }
        let Type::Reference(reference) = plain(&argument.ty) else {
            return Err(unfit(&argument.ty));
        };
        if let Some(lifetime) = &reference.lifetime {
            return Err(Error::new(lifetime.span(), "leave the lifetimes of a kernel's arguments out"));
        }
        let name = format_ident!("__workring_{}", self.names.len());
        let whole = whole_of(argument)?;
        if let Some(attribute) = whole
            && !matches!((plain(&reference.elem), reference.mutability), (Type::Slice(_), None))
        {
            return Err(Error::new(
                attribute.span(),
                "an input can be seen whole, `#[whole] name: &[T]`, and nothing else",
            ));
        }
        match (plain(&reference.elem), reference.mutability.is_some()) {
            (Type::Slice(slice), false) => {
                let bit = u8::from(whole.is_some()).checked_shl(self.inputs.len() as u32).unwrap_or(0);
                Self::push(&mut self.inputs, INPUTS_MAX, "inputs", &name, &slice.elem, argument)?;
                self.whole |= bit;
            }
            (Type::Slice(slice), true) => {
                Self::push(&mut self.outputs, OUTPUTS_MAX, "outputs", &name, &slice.elem, argument)?;
            }
            (Type::Path(_), true) => {
                let second = "a kernel has one context; an output is a slice, `&mut [T]`";
                Self::set(&mut self.context, second, &name, &reference.elem, argument)?;
            }
            (_, true) | (Type::TraitObject(_) | Type::ImplTrait(_), false) => return Err(unfit(&argument.ty)),
            (_, false) => {
                let second = "a kernel has one parameter: put both into a struct; an input is a slice, `&[T]`";
                Self::set(&mut self.param, second, &name, &reference.elem, argument)?;
            }
        }
        self.text.push_str(if self.names.is_empty() { "" } else { ", " });
        let whole = if whole.is_some() { "# [ whole ] " } else { "" };
        self.text.push_str(&format!("{whole}{}: {}", name_of(&argument.pat), text_of(&argument.ty)));
        self.names.push(name);
        self.types.push((*argument.ty).clone());
        Ok(())
    }

    fn push(
        to: &mut Vec<(Ident, Type)>,
        most: usize,
        what: &str,
        name: &Ident,
        ty: &Type,
        argument: &PatType,
    ) -> Result<()> {
        if to.len() == most {
            return Err(Error::new(argument.span(), format!("a kernel has at most {most} {what}")));
        }
        to.push((name.clone(), ty.clone()));
        Ok(())
    }

    fn set(to: &mut Option<(Ident, Type)>, second: &str, name: &Ident, ty: &Type, argument: &PatType) -> Result<()> {
        if to.is_some() {
            return Err(Error::new(argument.span(), second));
        }
        *to = Some((name.clone(), ty.clone()));
        Ok(())
    }
}

fn unfit(ty: &Type) -> Error {
    Error::new(
        ty.span(),
        "an argument of a kernel is an input `&[T]`, an output `&mut [T]`, the parameter `&P` or the context `&mut Context`",
    )
}

/// The attribute by which an argument says that it is seen whole.
fn whole_of(argument: &PatType) -> Result<Option<&Attribute>> {
    let mut said = argument.attrs.iter().filter(|attribute| is_whole(attribute));
    let first = said.next();
    if let Some(second) = said.next() {
        return Err(Error::new(second.span(), "`whole` is said twice"));
    }
    if let Some(attribute) = first {
        attribute.meta.require_path_only()?;
    }
    Ok(first)
}

/// Whether an attribute is one that only the attributes of kernels know, and no compiler.
pub(crate) fn is_whole(attribute: &Attribute) -> bool {
    attribute.path().is_ident("whole")
}

/// Whether an attribute can make what it stands on go away.
pub(crate) fn is_conditional(path: &syn::Path) -> bool {
    path.is_ident("cfg") || path.is_ident("cfg_attr")
}

/// A type without parentheses, and without the invisible ones around what a macro was given.
pub(crate) fn plain(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain(&group.elem),
        Type::Paren(paren) => plain(&paren.elem),
        ty => ty,
    }
}

/// The name of an argument: `mut x` is `x`.
fn name_of(pattern: &Pat) -> String {
    match pattern {
        Pat::Ident(pattern) => pattern.ident.to_string(),
        pattern => text_of(pattern),
    }
}

/// Tokens as text with one space between any two. Compilers print token streams as they see fit, and a signature is compared between
/// programs.
pub(crate) fn text_of(tokens: &impl ToTokens) -> String {
    fn add(tokens: TokenStream, words: &mut Vec<String>) {
        for tree in tokens {
            let TokenTree::Group(group) = tree else {
                words.push(tree.to_string());
                continue;
            };
            let (open, close) = match group.delimiter() {
                Delimiter::Parenthesis => ("(", ")"),
                Delimiter::Bracket => ("[", "]"),
                Delimiter::Brace => ("{", "}"),
                Delimiter::None => ("", ""),
            };
            words.push(open.to_owned());
            add(group.stream(), words);
            words.push(close.to_owned());
        }
    }
    let mut words = Vec::new();
    add(tokens.to_token_stream(), &mut words);
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn arguments(signature: Signature) -> Result<Arguments> {
        Arguments::of(&signature)
    }

    #[test]
    fn arguments_are_sorted_by_their_types() {
        let sorted =
            arguments(parse_quote!(fn f(mut x: &[f64], p: &[f64; 2], y: &mut [f32], ctx: &mut Context))).unwrap();
        assert_eq!((sorted.inputs.len(), sorted.outputs.len()), (1, 1));
        assert_eq!(text_of(&sorted.param.unwrap().1), "[ f64 ; 2 ]");
        assert_eq!(text_of(&sorted.context.unwrap().1), "Context");
        assert_eq!(sorted.names.len(), 4);
        assert_eq!(sorted.text, "x: & [ f64 ], p: & [ f64 ; 2 ], y: & mut [ f32 ], ctx: & mut Context");
    }

    /// What a macro passes on as a type comes in invisible parentheses, behind which a slice was not seen.
    #[test]
    fn types_that_come_from_macros_are_seen_through() {
        let inner: Type = parse_quote!([f64]);
        let group =
            Type::Group(syn::TypeGroup { attrs: Vec::new(), group_token: Default::default(), elem: Box::new(inner) });
        let sorted = arguments(parse_quote!(fn f(x: &#group, y: (&mut [f64])))).unwrap();
        assert_eq!((sorted.inputs.len(), sorted.outputs.len(), sorted.param.is_none()), (1, 1, true));
        assert_eq!(sorted.text, "x: & [ f64 ], y: ( & mut [ f64 ] )");
    }

    /// Whether an input is seen whole is part of what two programs agree on, and of its place among the inputs.
    #[test]
    fn whole_inputs_are_marked_by_their_number() {
        let sorted =
            arguments(parse_quote!(fn f(y: &mut [u8], a: &[u8], #[whole] b: &[u16], c: &[u8], #[whole] d: &[u8])));
        let sorted = sorted.unwrap();
        assert_eq!((sorted.inputs.len(), sorted.whole), (4, 0b1010));
        assert!(sorted.text.contains("a: & [ u8 ], # [ whole ] b: & [ u16 ], c: & [ u8 ]"), "{}", sorted.text);
    }

    #[test]
    fn every_wrong_argument_is_named() {
        let wrong: [(Signature, &str); 15] = [
            (parse_quote!(fn f(#[whole] y: &mut [u8])), "an input can be seen whole"),
            (parse_quote!(fn f(#[whole] p: &u8)), "an input can be seen whole"),
            (parse_quote!(fn f(#[whole] context: &mut Context)), "an input can be seen whole"),
            (parse_quote!(fn f(#[whole] #[whole] x: &[u8])), "said twice"),
            (parse_quote!(fn f(#[whole(yes)] x: &[u8])), "unexpected token"),
            (parse_quote!(fn f(f: &[u8])), "the name of its kernel"),
            (parse_quote!(fn f(&self)), "not a method"),
            (parse_quote!(fn f(x: f64)), "an argument of a kernel is"),
            (parse_quote!(fn f(x: &mut [f64; 2])), "an argument of a kernel is"),
            (parse_quote!(fn f(x: &dyn Fn())), "an argument of a kernel is"),
            (parse_quote!(fn f(x: &'static [f64])), "lifetimes"),
            (parse_quote!(fn f(p: &f64, q: &f64)), "one parameter"),
            (parse_quote!(fn f(p: &mut Context, q: &mut Context)), "one context"),
            (parse_quote!(fn f(#[cfg(unix)] p: &f64)), "is there always"),
            (
                parse_quote!(fn f(a: &mut [u8], b: &mut [u8], c: &mut [u8], d: &mut [u8], e: &mut [u8])),
                "at most 4 outputs",
            ),
        ];
        for (signature, reason) in wrong {
            let text = arguments(signature).err().expect(reason).to_string();
            assert!(text.contains(reason), "{text}");
        }
        let both = arguments(parse_quote!(fn f(x: f64, y: &mut [f64], z: String))).err().unwrap();
        assert_eq!(both.into_iter().count(), 2, "all of them at once");
    }
}
