//! The attributes of `workring` that turn functions into kernels, reducers and the main functions of worker processes.
//!
//! Use them through `workring`, which re-exports them, with their documentation: the code they write names its items. This crate is the one
//! place that knows what a kernel looks like: what an argument means is in `arguments`, what may be said in the parentheses of an attribute in
//! `options`, and the items that are written in `expand`.

mod arguments;
mod expand;
mod options;

use proc_macro::TokenStream;

/// Turns a function over slices into a kernel: see `workring::kernel`.
#[proc_macro_attribute]
pub fn kernel(options: TokenStream, function: TokenStream) -> TokenStream {
    answer(expand::kernel(options.into(), function.into()))
}

/// Turns a function that folds slices to one value into a reducer: see `workring::reducer`.
#[proc_macro_attribute]
pub fn reducer(options: TokenStream, function: TokenStream) -> TokenStream {
    answer(expand::reducer(options.into(), function.into()))
}

/// Turns a function into what a worker in a process of its own runs: see `workring::worker_main`.
#[proc_macro_attribute]
pub fn worker_main(options: TokenStream, function: TokenStream) -> TokenStream {
    answer(expand::worker_main(options.into(), function.into()))
}

fn answer(written: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    written.unwrap_or_else(syn::Error::into_compile_error).into()
}
