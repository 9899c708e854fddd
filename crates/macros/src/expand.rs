//! The items that an attribute writes for a function.
//!
//! All of them are written with the names of `workring` in full, and every local name begins with `__workring`: kernels are unit structs, and a
//! pattern of the same name as one in scope would mean that one.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, PathArguments, Result, ReturnType, Safety, Signature, Type,
    Visibility,
};

use crate::arguments::{Arguments, is_whole, plain, text_of};
use crate::options::{Knows, Options};

/// A function as it was written, its body unread.
struct Function {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    signature: Signature,
    body: Group,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let signature = input.parse()?;
        let body = body(input.parse()?).ok_or_else(|| Error::new(input.span(), "a kernel has a body"))?;
        if !input.is_empty() {
            return Err(input.error("the attribute stands on one function"));
        }
        Ok(Self { attributes, visibility, signature, body })
    }
}

/// The braces of a body, which a macro passes on in invisible parentheses.
fn body(tree: TokenTree) -> Option<Group> {
    let TokenTree::Group(group) = tree else { return None };
    match group.delimiter() {
        Delimiter::Brace => Some(group),
        Delimiter::None => group.stream().into_iter().next().and_then(body),
        _ => None,
    }
}

impl Function {
    /// Reads a function that can be called from anywhere, by anybody, as it is.
    fn read(tokens: TokenStream) -> Result<Self> {
        let function: Self = syn::parse2(tokens)?;
        let Signature { asyncness, safety, abi, generics, variadic, .. } = &function.signature;
        if let Some(token) = asyncness {
            return Err(Error::new(token.span(), "a kernel runs on a worker to its end: it cannot be async"));
        }
        match safety {
            Safety::Default => {}
            Safety::Unsafe(token) => {
                return Err(Error::new(token.span(), "a kernel is called by safe code: it cannot be unsafe"));
            }
            Safety::Safe(token) => return Err(Error::new(token.span(), "a kernel is no foreign function")),
        }
        if let Some(abi) = abi {
            return Err(Error::new(abi.span(), "a kernel is no foreign function"));
        }
        if let Some(variadic) = variadic {
            return Err(Error::new(variadic.span(), "a kernel has a fixed number of arguments"));
        }
        if !generics.params.is_empty() {
            return Err(Error::new(
                generics.params.span(),
                "a kernel cannot be generic, as other processes find it by its name: write a generic function, and a kernel that calls it for \
                 each type",
            ));
        }
        if let Some(clause) = &generics.where_clause {
            return Err(Error::new(clause.span(), "a kernel cannot be generic, so it has no where clause"));
        }
        Ok(function)
    }

    /// Takes away what stands on the arguments for the attribute alone, once it was read.
    fn without_marks(mut self) -> Self {
        for argument in &mut self.signature.inputs {
            if let FnArg::Typed(argument) = argument {
                argument.attrs.retain(|attribute| !is_whole(attribute));
            }
        }
        self
    }

    /// Its return type.
    fn returned(&self) -> Type {
        match &self.signature.output {
            ReturnType::Default => syn::parse_quote!(()),
            ReturnType::Type(_, ty) => (**ty).clone(),
        }
    }

    /// The unit struct of the function's name, and the function as its `call`, to which it dereferences.
    fn value(&self, types: &[Type], doc: &str) -> TokenStream {
        let Self { visibility, signature: Signature { constness, ident, inputs, output, .. }, body, .. } = self;
        let Attributes { conditions, for_value, for_function } = Attributes::of(&self.attributes);
        quote! {
            #(#conditions)*
            #(#for_value)*
            #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "it is named as a function is")]
            #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
            #visibility struct #ident;

            #(#conditions)*
            #[allow(deprecated, reason = "a kernel that is deprecated is still declared")]
            impl #ident {
                #[doc = #doc]
                #[allow(dead_code, clippy::too_many_arguments, clippy::allow_attributes, reason = "made for every kernel")]
                #(#for_function)*
                #visibility #constness fn call(#inputs) #output #body
            }

            #(#conditions)*
            #[allow(deprecated, reason = "a kernel that is deprecated is still declared")]
            impl ::core::ops::Deref for #ident {
                type Target = fn(#(#types),*) #output;

                fn deref(&self) -> &Self::Target {
                    const __WORKRING_CALL: fn(#(#types),*) #output = #ident::call;
                    &__WORKRING_CALL
                }
            }
        }
    }

    /// The name of the kernel in full: module path and name, unless it was given another.
    fn path(&self, options: &Options) -> TokenStream {
        match &options.path {
            Some(path) => quote!(#path),
            None => {
                let name = format!("::{}", self.signature.ident.unraw());
                quote!(::core::concat!(::core::module_path!(), #name))
            }
        }
    }
}

/// Where the attributes of a function go.
struct Attributes<'a> {
    /// On every item: whether there is one.
    conditions: Vec<&'a Attribute>,
    /// On the value: documentation, and what the compiler tells users of the name.
    for_value: Vec<&'a Attribute>,
    /// On the function: everything else.
    for_function: Vec<&'a Attribute>,
}

impl<'a> Attributes<'a> {
    fn of(all: &'a [Attribute]) -> Self {
        let mut sorted = Self { conditions: Vec::new(), for_value: Vec::new(), for_function: Vec::new() };
        for attribute in all {
            let is = |names: &[&str]| names.iter().any(|name| attribute.path().is_ident(name));
            if is(&["cfg"]) {
                sorted.conditions.push(attribute);
            } else if is(&["doc", "deprecated"]) {
                sorted.for_value.push(attribute);
            } else {
                // Lints are about what is written, of which the value's name is a part.
                if is(&["allow", "warn", "deny", "forbid"]) {
                    sorted.for_value.push(attribute);
                }
                sorted.for_function.push(attribute);
            }
        }
        sorted
    }
}

/// What `Kernel` and `KernelInfo` are told.
struct Described<'a> {
    name: &'a Ident,
    inputs: Vec<&'a Type>,
    /// Inputs that each chunk sees whole, by the bit of their number.
    whole: u8,
    outputs: Vec<&'a Type>,
    param: Type,
    /// Arguments, and what is returned if that is part of the signature.
    text: String,
    /// The body of the function that runs the kernel on `__workring_frame`.
    run: TokenStream,
}

impl Described<'_> {
    fn implementation(&self, function: &Function, options: &Options) -> TokenStream {
        let Self { name, inputs, whole, outputs, param, text, run } = self;
        let whole = (*whole != 0).then(|| quote!(.with_whole_inputs(#whole)));
        let (root, version, path) = (&options.root, options.version, function.path(options));
        let Attributes { conditions, .. } = Attributes::of(&function.attributes);
        // A type that cannot be one is complained of where it was written.
        let layout = |ty: &&Type| quote_spanned!(place(ty)=> #root::kernels::ElementLayout::of::<#ty>());
        let (input_layouts, output_layouts) = (inputs.iter().map(layout), outputs.iter().map(layout));
        let param_layout = layout(&param);
        quote! {
            #(#conditions)*
            #[allow(deprecated, reason = "a kernel that is deprecated is still declared")]
            // SAFETY: the types, and the batches that `run` takes from its frame, are read off one list of arguments, and the description
            // is a static.
            unsafe impl #root::Kernel for #name {
                type Inputs = (#(#inputs,)*);
                type Outputs = (#(#outputs,)*);
                type Param = #param;

                fn info(self) -> &'static #root::kernels::KernelInfo {
                    fn __workring_run(
                        __workring_frame: &mut #root::__private::Frame<'_, '_>,
                    ) -> ::core::result::Result<(), #root::kernels::KernelError> {
                        #run
                    }
                    static __WORKRING_INFO: #root::kernels::KernelInfo = #root::kernels::KernelInfo::new(
                        #path,
                        #version,
                        #text,
                        &[#(#input_layouts),*],
                        &[#(#output_layouts),*],
                        #param_layout,
                        __workring_run,
                    )#whole;
                    &__WORKRING_INFO
                }
            }
        }
    }
}

/// Where a type stands, for what is written about it: names there still mean what they mean in the rest of it.
fn place(ty: &Type) -> Span {
    Span::call_site().located_at(ty.span())
}

/// Takes what the arguments name from the frame, the outputs of a reducer aside.
fn taken(arguments: &Arguments) -> TokenStream {
    let input = |(name, ty): &(Ident, Type)| quote!(let #name = __workring_frame.input::<#ty>()?;);
    let inputs = arguments.inputs.iter().map(input);
    let output = |(name, ty): &(Ident, Type)| quote!(let #name = __workring_frame.output::<#ty>()?;);
    let outputs = arguments.outputs.iter().map(output);
    let param = arguments.param.iter().map(|(name, ty)| quote!(let #name = __workring_frame.param::<#ty>()?;));
    let context = arguments
        .context
        .iter()
        .map(|(name, ty)| quote_spanned!(place(ty)=> let #name: &mut #ty = __workring_frame.context();));
    quote!(#(#inputs)* #(#outputs)* #(#param)* #(#context)*)
}

/// The type of the parameter.
fn param_of(arguments: &Arguments) -> Type {
    arguments.param.as_ref().map_or_else(|| syn::parse_quote!(()), |(_, ty)| ty.clone())
}

fn types_of(arguments: &[(Ident, Type)]) -> Vec<&Type> {
    arguments.iter().map(|(_, ty)| ty).collect()
}

pub(crate) fn kernel(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(options, Knows::Kernel)?;
    let function = Function::read(function)?;
    let arguments = Arguments::of(&function.signature)?;
    let function = function.without_marks();
    let (name, root, returned) = (&function.signature.ident, &options.root, function.returned());
    let (taken, names) = (taken(&arguments), &arguments.names);
    let value = quote_spanned!(place(&returned)=> __workring_value);
    let outcome = quote_spanned!(place(&returned)=> #root::__private::KernelOutcome::into_outcome(#value));
    let described = Described {
        name,
        inputs: types_of(&arguments.inputs),
        whole: arguments.whole,
        outputs: types_of(&arguments.outputs),
        param: param_of(&arguments),
        text: arguments.text.clone(),
        run: quote! {
            #taken
            let __workring_value: #returned = #name::call(#(#names),*);
            #outcome
        },
    };
    let value = function.value(&arguments.types, "Runs the kernel's body on plain slices, on this thread.");
    let implementation = described.implementation(&function, &options);
    Ok(quote!(#value #implementation))
}

pub(crate) fn reducer(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(options, Knows::Reducer)?;
    let function = Function::read(function)?;
    let arguments = Arguments::of(&function.signature)?;
    let function = function.without_marks();
    if let Some((_, ty)) = arguments.outputs.first() {
        return Err(Error::new(ty.span(), "a reducer returns its value and has no other outputs"));
    }
    let ReturnType::Type(_, accumulator) = &function.signature.output else {
        return Err(Error::new(
            function.signature.ident.span(),
            "a reducer returns the value that it folds its inputs to",
        ));
    };
    let (name, root) = (&function.signature.ident, &options.root);
    let (taken, names) = (taken(&arguments), &arguments.names);
    let described = Described {
        name,
        inputs: types_of(&arguments.inputs),
        whole: arguments.whole,
        outputs: vec![&**accumulator],
        param: param_of(&arguments),
        text: format!("{} -> {}", arguments.text, text_of(&**accumulator)),
        run: quote! {
            let __workring_value = __workring_frame.output::<#accumulator>()?;
            #taken
            __workring_value[0] = #name::call(#(#names),*);
            ::core::result::Result::Ok(())
        },
    };
    let value = function.value(&arguments.types, "Folds one chunk, on this thread.");
    let implementation = described.implementation(&function, &options);
    let combine = &options.combine;
    let Attributes { conditions, .. } = Attributes::of(&function.attributes);
    Ok(quote! {
        #value
        #implementation
        #(#conditions)*
        #[allow(deprecated, reason = "a kernel that is deprecated is still declared")]
        impl #root::Reducer for #name {
            type Accumulator = #accumulator;

            fn combine(self, __workring_left: #accumulator, __workring_right: #accumulator) -> #accumulator {
                const __WORKRING_COMBINE: fn(#accumulator, #accumulator) -> #accumulator = #combine;
                __WORKRING_COMBINE(__workring_left, __workring_right)
            }
        }
    })
}

pub(crate) fn worker_main(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(options, Knows::Kernel)?;
    let function = Function::read(function)?;
    let scope = scope_of(&function.signature)?;
    let (receives, posts) = (&scope.arguments[0], &scope.arguments[1]);
    let nothing = syn::parse_quote!(());
    let data = scope.arguments.get(2).unwrap_or(&nothing);
    let (name, root) = (&function.signature.ident, &options.root);
    let (version, path) = (options.version, function.path(&options));
    let text = format!("worker {}", scope.arguments.iter().map(text_of).collect::<Vec<_>>().join(", "));
    // A type that cannot be one is complained of where it was written.
    let layouts =
        [receives, posts, data].map(|ty| quote_spanned!(place(ty)=> #root::kernels::ElementLayout::of::<#ty>()));
    let value = function.value(std::slice::from_ref(&scope.ty), "Runs the worker's function, on this thread.");
    let Attributes { conditions, .. } = Attributes::of(&function.attributes);
    Ok(quote! {
        #value
        #(#conditions)*
        #[allow(deprecated, reason = "a kernel that is deprecated is still declared")]
        // SAFETY: it takes nothing and gives nothing, and so it is described, by a static.
        unsafe impl #root::Kernel for #name {
            type Inputs = ();
            type Outputs = ();
            type Param = ();

            fn info(self) -> &'static #root::kernels::KernelInfo {
                fn __workring_main(
                    __workring_start: #root::__private::WorkerStart,
                ) -> ::core::result::Result<(), #root::kernels::KernelError> {
                    #root::__private::serve::<#name, _, _>(__workring_start, #name::call)
                }
                static __WORKRING_INFO: #root::kernels::KernelInfo = #root::kernels::KernelInfo::of_worker(
                    #path,
                    #version,
                    #text,
                    &[#(#layouts),*],
                    __workring_main,
                );
                &__WORKRING_INFO
            }
        }
        #(#conditions)*
        #[allow(deprecated, reason = "a kernel that is deprecated is still declared")]
        impl #root::message::WorkerMain for #name {
            type Receives = #receives;
            type Posts = #posts;
            type Data = #data;
        }
    })
}

/// The scope of a worker's function: its type, and the types it names.
struct Scope {
    ty: Type,
    arguments: Vec<Type>,
}

fn scope_of(signature: &Signature) -> Result<Scope> {
    let wanted = "the main function of a worker takes its scope, `&WorkerScope<Receives, Posts>` or `&WorkerScope<Receives, Posts, Data>`";
    let mut inputs = signature.inputs.iter();
    let argument = match (inputs.next(), inputs.next()) {
        (Some(FnArg::Typed(argument)), None) => argument,
        (None, _) => return Err(Error::new(signature.ident.span(), wanted)),
        (Some(FnArg::Receiver(receiver)), _) => return Err(Error::new(receiver.span(), wanted)),
        (_, Some(second)) => return Err(Error::new(second.span(), wanted)),
    };
    let unfit = || Error::new(argument.ty.span(), wanted);
    let Type::Reference(reference) = plain(&argument.ty) else { return Err(unfit()) };
    let Type::Path(path) = plain(&reference.elem) else { return Err(unfit()) };
    let Some(PathArguments::AngleBracketed(types)) = path.path.segments.last().map(|segment| &segment.arguments) else {
        return Err(unfit());
    };
    let arguments: Vec<Type> = types
        .args
        .iter()
        .filter_map(|argument| match argument {
            GenericArgument::Type(ty) => Some(ty.clone()),
            _ => None,
        })
        .collect();
    if reference.mutability.is_some() || !(2..=3).contains(&arguments.len()) || arguments.len() != types.args.len() {
        return Err(unfit());
    }
    Ok(Scope { ty: (*argument.ty).clone(), arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an attribute says of a function, with what each error points at.
    fn errors(
        attribute: fn(TokenStream, TokenStream) -> Result<TokenStream>,
        options: &str,
        function: &str,
    ) -> Vec<(String, String)> {
        let written = attribute(options.parse().unwrap(), function.parse().unwrap());
        let errors = written.map(|_| Vec::new()).unwrap_or_else(|error| error.into_iter().collect());
        errors.iter().map(|error| (error.span().source_text().unwrap_or_default(), error.to_string())).collect()
    }

    /// A wrong argument was "no rules expected the token", at a place inside the macro.
    #[test]
    fn errors_point_at_what_is_wrong() {
        let wrong_kernels = [
            ("", "fn f(x: &[f64], y: f64) {}", "f64", "an argument of a kernel is"),
            ("", "fn f(x: &[f64], y: Vec<f64>) {}", "Vec<f64>", "an argument of a kernel is"),
            ("", "fn f(x: &[f64], y: &mut [f64; 3]) {}", "&mut [f64; 3]", "an argument of a kernel is"),
            ("", "fn f(&self, x: &[f64]) {}", "&self", "not a method"),
            ("", "fn f(p: &u8, q: &u16) {}", "q: &u16", "one parameter"),
            ("", "fn f<T: Pod>(x: &[T]) {}", "T: Pod", "cannot be generic"),
            ("", "fn f<'a>(x: &'a [f64]) {}", "'a", "cannot be generic"),
            ("", "fn f<const N: usize>(x: &[f64]) {}", "const N: usize", "cannot be generic"),
            ("", "fn f(x: &'static [f64]) {}", "'static", "lifetimes"),
            ("", "async fn f(x: &[f64]) {}", "async", "cannot be async"),
            ("", "unsafe fn f(x: &[f64]) {}", "unsafe", "cannot be unsafe"),
            ("", "extern \"C\" fn f(x: &[f64]) {}", "extern \"C\"", "no foreign function"),
            ("", "fn f(#[cfg(unix)] x: &[f64]) {}", "#[cfg(unix)]", "is there always"),
            ("", "fn sum(sum: &mut [f64]) {}", "sum", "the name of its kernel"),
            (
                "",
                "fn k(a: &[u8], b: &[u8], c: &[u8], d: &[u8], e: &[u8], f: &[u8], g: &[u8], h: &[u8], i: &[u8]) {}",
                "i: &[u8]",
                "at most 8",
            ),
            ("", "fn f(#[whole] y: &mut [u8]) {}", "#[whole]", "an input can be seen whole"),
            ("version = two", "fn f() {}", "two", "integer literal"),
            ("version = 4294967296", "fn f() {}", "4294967296", "too large"),
            ("speed = 9", "fn f() {}", "speed", "the options are `version"),
            ("combine = max", "fn f() {}", "combine", "the options are `version"),
            ("version = 1, version = 2", "fn f() {}", "version", "said twice"),
            ("path = \"a b\"", "fn f() {}", "\"a b\"", "letters, digits"),
            ("path = \"a::\"", "fn f() {}", "\"a::\"", "letters, digits"),
            ("path = 3", "fn f() {}", "3", "a path is a string"),
        ];
        let wrong_reducers = [
            ("combine = max", "fn f(x: &[f64]) {}", "f", "returns the value"),
            ("combine = max", "fn f(x: &[f64], y: &mut [u8]) -> f64 {}", "u8", "no other outputs"),
        ];
        let wrong_workers = [
            ("", "fn f() {}", "f", "takes its scope"),
            ("", "fn f(scope: &WorkerScope) {}", "&WorkerScope", "takes its scope"),
            ("", "fn f(scope: &WorkerScope<u8>) {}", "&WorkerScope<u8>", "takes its scope"),
            ("", "fn f(scope: WorkerScope<u8, u8>) {}", "WorkerScope<u8, u8>", "takes its scope"),
            ("", "fn f(scope: &WorkerScope<u8, u8>, more: u8) {}", "more: u8", "takes its scope"),
        ];
        let kernels = wrong_kernels.iter().map(|case| (kernel as fn(_, _) -> _, case));
        let reducers = wrong_reducers.iter().map(|case| (reducer as fn(_, _) -> _, case));
        let workers = wrong_workers.iter().map(|case| (worker_main as fn(_, _) -> _, case));
        for (attribute, &(options, function, at, reason)) in kernels.chain(reducers).chain(workers) {
            let said = errors(attribute, options, function);
            assert!(said.len() == 1 && said[0].0 == at && said[0].1.contains(reason), "{options} {function}: {said:?}");
        }
        let said = errors(reducer, "", "fn f(x: &[f64]) -> f64 { 0.0 }");
        assert!(said[0].1.contains("needs a rule to combine"), "{said:?}");
        let said = errors(kernel, "", "struct f;");
        assert_eq!(said.len(), 1, "{said:?}");
    }

    /// The mark of an argument is the attribute's own: no compiler would know it, and it must not reach the function.
    #[test]
    fn marks_of_arguments_stay_with_the_description() {
        let read = |function: &str| kernel(TokenStream::new(), function.parse().unwrap()).unwrap().to_string();
        let text = read("fn f(#[allow(unused)] x: &[u8], #[whole] t: &[u8], y: &mut [u8]) {}");
        let described = text.matches("with_whole_inputs (2u8)").count();
        assert_eq!(
            (described, text.matches("# [whole]").count(), text.matches("allow (unused)").count()),
            (1, 0, 1),
            "{text}"
        );
        assert!(text.contains("# [ whole ] t: & [ u8 ]"), "in the signature that programs compare: {text}");
        assert!(!read("fn f(x: &[u8]) {}").contains("with_whole_inputs"));
        let reduced =
            reducer("combine = max".parse().unwrap(), "fn f(#[whole] t: &[u8], x: &[u8]) -> u8 { 0 }".parse().unwrap());
        assert!(reduced.unwrap().to_string().contains("with_whole_inputs (1u8)"));
    }

    /// All that is written for a function is syntax, and its name and what stands on it go where they belong.
    #[test]
    fn functions_become_items() {
        let written = kernel(
            "version = 3, path = \"a::b\", crate = crate::deep".parse().unwrap(),
            "/// Doc.\n#[cfg(unix)] #[inline] #[allow(unused)] pub fn f(x: &[u8], y: &mut [u8], p: &u8, c: &mut Context) -> Result<(), E> { g(x, y, p, c) }"
                .parse()
                .unwrap(),
        );
        let text = written.unwrap().to_string();
        let file: syn::File = syn::parse_str(&text).unwrap();
        assert_eq!(file.items.len(), 4, "the value, the function, its dereference, the kernel");
        let count = |what: &str| text.matches(what).count();
        assert_eq!(
            (count("cfg (unix)"), count("inline"), count("Doc."), count("allow (unused)")),
            (4, 1, 1, 2),
            "{text}"
        );
        assert!(text.contains("crate :: deep :: kernels :: KernelInfo :: new (\"a::b\" , 3u32"), "{text}");
        assert!(!text.contains(":: workring"), "{text}");
    }
}
