//! House rules about where code lies: which file imports which, where a type has its methods, how often a name stands for a type, and
//! where threads are started. As in `tidy.rs`, each check is run over the repository and over a text that breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use super::tidy::{
    Source, end_of_word, line_of, lines_before_tests, paths_at, positions, read_below_root, report, rust_below, sources,
};

/// Folders in which files still import each other in a circle. The list only shrinks: a folder without a circle must leave it.
const CIRCLES: &[(&str, &str)] = &[];

/// Where methods of a type stand outside its folder: file, type, reason.
const IMPLS_ELSEWHERE: &[(&str, &str, &str)] = &[(
    "front/files/output_batch.rs",
    "PerChunk",
    "a result file is an output with a number of elements for each chunk, too: files know calls, and not the other way round",
)];

/// Names that stand for several types, with the reason.
const NAMES_OF_SEVERAL: &[(&str, &str)] = &[
    ("Address", "where an engine is reached, and its stand-in on systems that have no worker processes"),
    ("AttachedWorker", "as Address"),
    (
        "Channel",
        "a channel of the library, and the socket that it or a handshake goes over, which floors above name `os::channel`",
    ),
    ("Claim", "to a job, and to a file: the field says so of both, and no file has to do with both"),
    ("EventFd", "of the system, and its stand-in on systems that have none"),
    ("Full", "the answer of a ring and of a lane, each about what it could not take"),
    ("Histogram", "what users read, and the record in shared memory that it is made of"),
    ("Leave", "guards of the two files that they are private to"),
    ("Listener", "the socket, and what is called as a job gets on, which is public"),
    ("Ran", "answers of the two functions that they are private to"),
    ("ServeOutcome", "as Address"),
    ("Ticket", "of a wait for a value, of a closure's slot, of a list of waiters: private to their rooms"),
    ("Timing", "an option that users set, and the record in shared memory"),
    ("Waiting", "private to the two files that have one"),
];

/// The models of the lock-free floor: each is a small world of its own.
const MODELS: &str = "lockfree/loom_models/";

/// What lies beside the library.
const BESIDE: &str = "fuzz/worlds/";

/// The heading of `docs/architecture.md` below which the table of threads stands.
const THREADS: &str = "## Threads and sleeps";

/// A file as a module of its crate.
struct Module {
    path: String,
    /// Its names from the crate's root on.
    names: Vec<String>,
    code: String,
    /// The inline modules in it: where their bodies lie, and their names.
    inline: Vec<(Range<usize>, String)>,
}

/// A path that a file names: its line, the module in whose scope it stands, its segments.
struct Named {
    line: usize,
    at: usize,
    segments: Vec<String>,
    /// Whether a `pub use` names it, for others.
    is_exported: bool,
}

impl Module {
    fn new(source: &Source) -> Self {
        let path = source.module_path();
        let stem = path.strip_suffix(".rs").unwrap_or(&path);
        let mut names: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if names.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
            names.pop();
        }
        // `pub(in crate::a)` says which modules may see a thing, and imports nothing.
        let code = blank_visibilities(&source.code);
        Self { path: source.path.clone(), names, inline: inline_modules(&code), code }
    }

    /// The module that a position belongs to.
    fn scope(&self, at: usize) -> Vec<String> {
        let inline = self.inline.iter().filter(|(body, _)| body.contains(&at)).map(|(_, name)| name.clone());
        self.names.iter().cloned().chain(inline).collect()
    }

    fn is_facade(&self) -> bool {
        self.path.ends_with("mod.rs") || self.path.ends_with("lib.rs")
    }

    /// Whether its own code, imports aside, has a name by itself.
    fn uses(&self, name: &str) -> bool {
        positions(&self.code, name).any(|at| {
            let before = self.code[..at].trim_end();
            let statement = before.rfind([';', '{', '}']).map_or(before, |end| &before[end..]);
            let is_import = positions(before.rsplit(';').next().unwrap_or(before), "use").next().is_some();
            !is_import
                && !before.ends_with("::")
                && !before.ends_with('.')
                && positions(statement, "mod").next().is_none()
        })
    }

    /// Every path that may lead to another file.
    fn named(&self) -> Vec<Named> {
        let code = &self.code;
        let mut named = Vec::new();
        let mut uses: Vec<Range<usize>> = Vec::new();
        for at in positions(code, "use") {
            let end = code[at..].find(';').map_or(code.len(), |len| at + len);
            uses.push(at..end);
            let before = code[..at].trim_end();
            let is_exported = before.ends_with("pub") || before.ends_with(')');
            let paths = paths_at(&code[..end], at + 3);
            named.extend(paths.iter().map(|path| self.named_at(at, path, is_exported)));
        }
        let is_used = |at: usize| uses.iter().any(|part| part.contains(&at));
        for (at, _) in code.match_indices("::") {
            let begin = code[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |end| end + 1);
            let before = &code[..begin];
            if begin < at && !is_used(at) && !before.ends_with("::") && !before.ends_with(['$', '.', '\'']) {
                let paths = paths_at(code, begin);
                named.extend(paths.iter().map(|path| self.named_at(begin, path, false)));
            }
        }
        named
    }

    fn named_at(&self, at: usize, path: &str, is_exported: bool) -> Named {
        let mut segments: Vec<String> = path.split("::").map(str::to_owned).collect();
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        Named { line: line_of(&self.code, at), at, segments, is_exported }
    }
}

fn blank_visibilities(code: &str) -> String {
    let mut blanked = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("(in ") {
        let end = rest[at..].find(')').map_or(rest.len(), |len| at + len);
        blanked.push_str(&rest[..at]);
        blanked.push('(');
        blanked.extend(std::iter::repeat_n(' ', end - at - 1));
        rest = &rest[end..];
    }
    blanked + rest
}

/// The bodies of all `mod name { .. }`, outer ones first.
fn inline_modules(code: &str) -> Vec<(Range<usize>, String)> {
    let (mut open, mut found, mut statement) = (Vec::new(), Vec::new(), 0);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => {
                let head = &code[statement..at];
                open.push(positions(head, "mod").last().map(|word| {
                    found.push((at..code.len(), head[word + 3..].trim().to_owned()));
                    found.len() - 1
                }));
                statement = at + 1;
            }
            b'}' => {
                if let Some(Some(module)) = open.pop() {
                    let (body, _): &mut (Range<usize>, String) = &mut found[module];
                    body.end = at;
                }
                statement = at + 1;
            }
            b';' => statement = at + 1,
            _ => {}
        }
    }
    found
}

/// The imports between the files of one crate: from, to, and the lines that say so.
fn imports(modules: &[Module]) -> BTreeMap<&str, BTreeMap<&str, BTreeSet<usize>>> {
    let by_names: BTreeMap<&[String], &Module> =
        modules.iter().map(|module| (module.names.as_slice(), module)).collect();
    let absolute = |module: &Module, named: &Named| -> Option<Vec<String>> {
        let mut names = module.scope(named.at);
        let mut rest = named.segments.as_slice();
        match rest.first().map(String::as_str) {
            Some("crate") => {
                names.clear();
                rest = &rest[1..];
            }
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    names.pop();
                    rest = &rest[1..];
                }
            }
            // A module below the one that names it.
            Some(first) if by_names.contains_key([names.as_slice(), &[first.to_owned()]].concat().as_slice()) => {}
            _ => return None,
        }
        names.extend_from_slice(rest);
        Some(names)
    };
    let mut exports: BTreeMap<(&[String], String), Vec<String>> = BTreeMap::new();
    let all: Vec<(&Module, Named, Vec<String>)> = modules
        .iter()
        .flat_map(|module| module.named().into_iter().map(move |named| (module, named)))
        .filter_map(|(module, named)| absolute(module, &named).map(|path| (module, named, path)))
        .collect();
    for (module, named, path) in &all {
        if named.is_exported && module.scope(named.at) == module.names {
            exports.insert((&module.names, path.last().cloned().unwrap_or_default()), path.clone());
        }
    }
    // The file that a path ends in: through re-exports to where a thing is defined.
    let resolve = |path: &[String]| -> Option<&Module> {
        let mut path = path.to_owned();
        for _ in 0..8 {
            let len = (0..=path.len()).rev().find(|&len| by_names.contains_key(&path[..len]))?;
            let module = by_names[&path[..len]];
            let export = path.get(len).and_then(|name| exports.get(&(module.names.as_slice(), name.clone())));
            match export {
                Some(target) if *target != path[..=len] => path = [target.as_slice(), &path[len + 1..]].concat(),
                _ => return Some(module),
            }
        }
        None
    };
    let mut imports: BTreeMap<&str, BTreeMap<&str, BTreeSet<usize>>> = BTreeMap::new();
    for (module, named, path) in &all {
        // What a folder only hands on it does not import.
        let name = path.last().map_or("", String::as_str);
        if named.is_exported && module.is_facade() && !module.uses(name) {
            continue;
        }
        if let Some(target) = resolve(path).filter(|target| target.path != module.path) {
            imports.entry(&module.path).or_default().entry(&target.path).or_default().insert(named.line);
        }
    }
    imports
}

/// The files that can be reached from `from`.
fn reached<'a>(imports: &BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<usize>>>, from: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for target in imports.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(*target) {
                open.push(target);
            }
        }
    }
    reached
}

/// Every import that is part of a circle. Circles inside a folder of `allowed` are none, but there must be one.
fn check_circles(sources: &[Source], allowed: &[(&str, &str)]) -> Vec<String> {
    let modules: Vec<Module> = sources.iter().map(Module::new).collect();
    let imports = imports(&modules);
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (*file, self::reached(&imports, file))).collect();
    let mut violations = Vec::new();
    let mut needed = BTreeSet::new();
    for (from, targets) in &imports {
        for (to, lines) in targets.iter().filter(|(to, _)| reached.get(*to).is_some_and(|files| files.contains(from))) {
            match allowed.iter().find(|(folder, _)| from.starts_with(folder) && to.starts_with(folder)) {
                Some((folder, _)) => drop(needed.insert(*folder)),
                None => {
                    violations.push(format!("{from}:{lines:?}: imports {to}, which imports it, if by way of others"))
                }
            }
        }
    }
    let unneeded = allowed.iter().filter(|(folder, _)| !needed.contains(folder));
    violations
        .extend(unneeded.map(|(folder, _)| format!("{folder}: there is no circle any more: take it off the list")));
    violations
}

/// The types that a file defines, outside of its tests.
fn types_of(source: &Source) -> BTreeSet<String> {
    defined(source, &["struct", "enum", "union"])
}

/// What a file defines by one of these words, outside of its tests.
fn defined(source: &Source, words: &[&str]) -> BTreeSet<String> {
    let len = source.code.split_inclusive('\n').take(lines_before_tests(&source.text)).map(str::len).sum();
    let code = &source.code[..len];
    let words = words.iter().flat_map(|word| positions(code, word).map(move |at| at + word.len()));
    words.map(|at| first_word(&code[at..])).filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase())).collect()
}

fn first_word(text: &str) -> String {
    let text = text.trim_start();
    text[..end_of_word(text)].to_owned()
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The trait, if there is one, and the type of an `impl`, whose text begins right behind the word.
fn parts_of_impl(text: &str) -> Option<(Option<String>, String)> {
    let mut rest = text;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.bytes().zip(rest.bytes().skip(1)).position(|(byte, next)| {
            depth += match (byte, next) {
                (b'<', _) => 1,
                (b'>', _) => -1,
                // The arrow of a bound like `Fn() -> T`.
                (b'-', b'>') => 1,
                _ => 0,
            };
            depth == 0
        })?;
        rest = &rest[end + 1..];
    }
    let head = &rest[..rest.find('{')?];
    let (of_trait, of_type) = match positions(head, "for").next() {
        Some(at) => (Some(&head[..at]), &head[at + 3..]),
        None => (None, head),
    };
    let name = |head: &str| {
        let head = head.trim_start().trim_start_matches('&').trim_start();
        let path = &head[..head.find(['<', ' ', '\n']).unwrap_or(head.len())];
        path.rsplit("::").next().map(first_word).filter(|name| !name.is_empty())
    };
    Some((of_trait.and_then(name), name(of_type)?))
}

fn type_of_impl(text: &str) -> Option<String> {
    Some(parts_of_impl(text)?.1)
}

fn trait_of_impl(text: &str) -> Option<String> {
    parts_of_impl(text)?.0
}

/// Methods of a type of the crate stand in the folder of the type, or below it.
fn check_impls(sources: &[Source], elsewhere: &[(&str, &str, &str)]) -> Vec<String> {
    let mut folders: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut traits: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        for name in defined(source, &["struct", "enum", "union"]) {
            folders.entry(name).or_default().insert(folder_of(&source.path));
        }
        for name in defined(source, &["trait"]) {
            traits.entry(name).or_default().insert(folder_of(&source.path));
        }
    }
    let mut violations = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources {
        for at in positions(&source.code, "impl") {
            let before = source.code[..at].trim_end();
            let is_item = before.is_empty() || before.ends_with(['}', '{', ';', ']']) || before.ends_with("unsafe");
            let Some(name) = type_of_impl(&source.code[at + 4..]).filter(|_| is_item) else { continue };
            let Some(own) = folders.get(&name) else { continue };
            let folder = folder_of(&source.path);
            // `a.rs` is the page of the folder `a`.
            let is_below = |own: &&str| {
                own.is_empty()
                    || folder == *own
                    || source.path.strip_suffix(".rs") == Some(own)
                    || folder.starts_with(&format!("{own}/"))
            };
            // A trait is implemented beside the type or beside the trait, as Rust has it for crates: the floor of the type does not
            // know that of the trait.
            let of_trait = trait_of_impl(&source.code[at + 4..]).and_then(|name| traits.get(&name));
            if own.iter().any(is_below) || of_trait.is_some_and(|own| own.iter().any(is_below)) {
                continue;
            }
            if let Some(listed) = elsewhere.iter().find(|(path, listed, _)| *path == source.path && *listed == name) {
                needed.insert((listed.0, listed.1));
                continue;
            }
            let line = line_of(&source.code, at);
            violations.push(format!("{}:{line}: {name} is of {own:?}: its methods stand there, or below", source.path));
        }
    }
    let unneeded = elsewhere.iter().filter(|(path, name, _)| !needed.contains(&(*path, *name)));
    violations.extend(unneeded.map(|(path, name, _)| format!("{path}: has nothing of {name}: take it off the list")));
    violations
}

/// A name stands for one type. Versions for several systems in one file are one type; tests and models have names of their own.
fn check_names(sources: &[Source], several: &[(&str, &str)]) -> Vec<String> {
    let mut files: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let is_apart = |source: &&Source| source.path.starts_with(MODELS) || source.path.starts_with(BESIDE);
    for source in sources.iter().filter(|source| !is_apart(source)) {
        for name in types_of(source) {
            files.entry(name).or_default().insert(&source.path);
        }
    }
    let is_listed = |name: &str| several.iter().any(|(listed, _)| *listed == name);
    let double = files.iter().filter(|(_, files)| files.len() > 1);
    let mut violations: Vec<String> = double
        .clone()
        .filter(|(name, _)| !is_listed(name))
        .map(|(name, files)| format!("{name} is a type of each of {files:?}"))
        .collect();
    let double: BTreeSet<&str> = double.map(|(name, _)| name.as_str()).collect();
    let unneeded = several.iter().filter(|(name, _)| !double.contains(name));
    violations.extend(unneeded.map(|(name, _)| format!("{name} stands for one type at most: take it off the list")));
    violations
}

/// What a file does outside of its tests that the table of threads is about: `threads`, `sleeps`, or both.
fn threads_of(source: &Source) -> Option<String> {
    let len = source.code.split_inclusive('\n').take(lines_before_tests(&source.text)).map(str::len).sum();
    let code = &source.code[..len];
    let behind = |word: &str| positions(code, "thread").any(|at| code[at + 6..].starts_with(word));
    let mut does = Vec::new();
    if behind("::spawn") || behind("::Builder::new") || behind("::scope") {
        does.push("threads");
    }
    if behind("::sleep") || behind("::park_timeout") {
        does.push("sleeps");
    }
    (!does.is_empty()).then(|| does.join(", "))
}

/// The table says of each file that starts threads or sleeps which of both it does, and of no other.
fn check_threads(sources: &[Source], architecture: &str) -> Vec<String> {
    let table = architecture.split_once(THREADS).map_or("", |(_, rest)| rest);
    let table = table.split("\n## ").next().unwrap_or_default();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let file = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((file.to_owned(), cells.next()?.to_owned()))
    });
    let documented: BTreeMap<String, String> = rows.collect();
    // Neither models nor files of tests alone are what runs.
    let runs = |source: &&Source| !source.path.starts_with(MODELS) && !source.path.ends_with("/tests.rs");
    let found: BTreeMap<String, String> =
        sources.iter().filter(runs).filter_map(|source| Some((source.path.clone(), threads_of(source)?))).collect();
    let files: BTreeSet<&String> = documented.keys().chain(found.keys()).collect();
    let differing = files.into_iter().filter(|file| documented.get(*file) != found.get(*file));
    differing
        .map(|file| {
            let (documented, found) = (documented.get(file), found.get(file));
            format!("{file}: {found:?}, and docs/architecture.md, \"Threads and sleeps\", says {documented:?}")
        })
        .collect()
}

/// The library, with what lies beside it as modules of it.
fn library() -> Vec<Source> {
    sources().into_iter().filter(|source| !source.is_of_the_command()).collect()
}

#[test]
fn no_file_imports_in_a_circle() {
    report(check_circles(&library(), CIRCLES));
    report(check_circles(&sources().into_iter().filter(Source::is_of_the_command).collect::<Vec<_>>(), &[]));
    report(check_circles(&rust_below("crates/macros/src"), &[]));

    let files = |texts: &[(&str, &str)]| -> Vec<Source> {
        let lib = ("lib.rs", "mod a; mod b;");
        [&[lib], texts].concat().iter().map(|(path, text)| Source::new(path, text)).collect()
    };
    let bad = |texts: &[(&str, &str)]| check_circles(&files(texts), &[]).len();
    // By each way to name a file: from the root, from a folder, out of an inline module, in an expression, by a module's name.
    assert_eq!(bad(&[("a/mod.rs", ""), ("a/x.rs", "use crate::a::y::Y;"), ("a/y.rs", "use super::x::X;")]), 2);
    assert_eq!(
        bad(&[("a/mod.rs", ""), ("a/x.rs", "use crate::a::{y, z};"), ("a/y.rs", "fn f() { super::x::g() }")]),
        2
    );
    assert_eq!(bad(&[("a/x.rs", "mod tests { use super::super::y::{self, Y}; }"), ("a/y.rs", "use super::x::X;")]), 2);
    assert_eq!(bad(&[("a/mod.rs", "use self::x::X;"), ("a/x.rs", "fn f() { crate::a::g() }")]), 2);
    assert_eq!(bad(&[("a.rs", "mod x; use x::Y;"), ("a/x.rs", "use super::Z;")]), 2);
    assert_eq!(bad(&[("a.rs", "mod x; fn f() { x::g() }"), ("a/x.rs", "use super::*;")]), 2);
    // Through what a folder hands on, and in a circle of three.
    assert_eq!(bad(&[("a/mod.rs", "pub use x::X;"), ("a/x.rs", "use crate::b::B;"), ("b.rs", "use crate::a::X;")]), 2);
    let three = [("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use super::z::Z;"), ("a/z.rs", "use super::x::X;")];
    assert_eq!(bad(&three), 3);
    assert_eq!(check_circles(&files(&three), &[("a/", "reason")]).len(), 0);
    assert_eq!(check_circles(&files(&three[1..]), &[("a/", "reason")]).len(), 1, "the list must shrink");
    // None: handing on is no import, nor is a limit of visibility, nor what a comment says, nor a file's own tests.
    assert_eq!(bad(&[("a/mod.rs", "pub(crate) use x::X; fn f() {}"), ("a/x.rs", "use super::f;")]), 0);
    assert_eq!(bad(&[("a/mod.rs", "pub(crate) use x::X; fn f(x: X) {}"), ("a/x.rs", "use super::f;")]), 2);
    assert_eq!(bad(&[("a/mod.rs", "mod x; pub use self::x::x; fn f() { g::x() }"), ("a/x.rs", "use super::f;")]), 0);
    assert_eq!(bad(&[("a/mod.rs", "use x::X;"), ("a/x.rs", "pub(in crate::a) fn f() {}\n// super::g\n")]), 0);
    assert_eq!(bad(&[("a/x.rs", "use super::y::Y; mod tests { use super::*; use super::Z; }"), ("a/y.rs", "")]), 0);
}

#[test]
fn a_type_has_its_methods_in_its_own_folder() {
    let sources = library();
    let types: usize = sources.iter().map(|source| types_of(source).len()).sum();
    assert!(types > 200, "only {types} types were found");
    report(check_impls(&sources, IMPLS_ELSEWHERE));
    let files = |text: &str| [Source::new("a/x.rs", "pub struct T<U>(U); enum E {}"), Source::new("b/y.rs", text)];
    let bad = |text: &str| check_impls(&files(text), &[]).len();
    assert_eq!(bad("impl T<u8> {}"), 1);
    assert_eq!(bad("impl<F: Fn() -> Option<u8>> crate::a::x::T<F> {}"), 1);
    assert_eq!(bad("#[cfg(unix)]\nimpl fmt::Debug for E {} unsafe impl<U> Send for &T<U> {}"), 2);
    assert_eq!(bad("fn f(e: impl Fn(E)) -> impl Into<E> { g() } impl Other for Vec<E> {}"), 0);
    assert_eq!(check_impls(&files("impl E {}"), &[("b/y.rs", "E", "reason")]).len(), 0);
    assert_eq!(check_impls(&files(""), &[("b/y.rs", "E", "reason")]).len(), 1, "the list must shrink");
    let below =
        [Source::new("a/x.rs", "struct T;"), Source::new("a/b/y.rs", "impl T {}"), Source::new("a/z.rs", "impl T {}")];
    assert_eq!(check_impls(&below, &[]).len(), 0);
    let beside_its_trait = "trait Own {} impl<U> Own for T<U> {}";
    assert_eq!(bad(beside_its_trait), 0);
    assert_eq!(
        check_impls(&[&files("impl Own for E {}")[..], &[Source::new("c/z.rs", "trait Own {}")]].concat(), &[]).len(),
        1
    );
}

#[test]
fn a_name_stands_for_one_type() {
    let sources = library();
    report(check_names(&sources, NAMES_OF_SEVERAL));
    let files = |text: &str| [Source::new("a/x.rs", "pub struct T; struct T;"), Source::new("b/y.rs", text)];
    assert_eq!(check_names(&files("enum T {}"), &[]).len(), 1);
    assert_eq!(check_names(&files("enum T {}"), &[("T", "reason")]).len(), 0);
    assert_eq!(check_names(&files("enum U {}"), &[("T", "reason")]).len(), 1, "the list must shrink");
    assert_eq!(check_names(&files("fn f(t: T) {}\n#[cfg(test)]\nmod tests { struct T; }"), &[]).len(), 0);
}

#[test]
fn threads_and_sleeps_are_where_the_docs_say() {
    let architecture = read_below_root(Path::new("docs/architecture.md")).unwrap();
    report(check_threads(&sources(), &architecture));
    let page = "## Threads and sleeps\n\n| file | does | why |\n|---|---|---|\n| `a.rs` | threads | it must |\n\n## Next\n| `b.rs` | sleeps |\n";
    let bad = |path: &str, text: &str| check_threads(&[Source::new(path, text)], page).len();
    assert_eq!(bad("a.rs", "fn f() { thread::Builder::new().spawn(g); }"), 0);
    assert_eq!(bad("a.rs", "fn f() { std::thread::spawn(g); std::thread::sleep(h); }"), 1);
    assert_eq!(bad("a.rs", "fn f() {}\n#[cfg(test)]\nmod tests { fn f() { thread::spawn(g); } }"), 1, "it does not");
    assert_eq!(bad("b.rs", "fn f() { thread::sleep(h); }"), 2, "one too few, one too many");
}
