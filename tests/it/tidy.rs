//! House rules that a machine can hold. Each check is a function from text to a list of violations, run once over the
//! repository and once over a text that breaks the rule: a check that cannot fail checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the files below a module of the library may name of the crate, by prefix of the path below `src/`, or below the root for files
/// that lie elsewhere. `docs/architecture.md` explains the floors; the list is more exact than they are.
pub(super) const MAY_NAME: &[(&str, &[&str])] = &[
    // Floor 0: words.
    ("error", &[]),
    ("ids", &[]),
    ("sync", &[]),
    ("fault", &[]),
    ("panics", &["error"]),
    ("watchdog", &[]),
    // Floor 1: what the system does. It knows no layout and no policy.
    ("os", &["error", "sync", "os"]),
    // Floor 2: what the bytes mean. Only the view knows that they lie in a mapping.
    ("layout", &["error", "ids", "sync", "layout"]),
    ("layout/view.rs", &["error", "ids", "sync", "layout", "os::map"]),
    // Floor 3: the protocols. They know no mapping, no process and no kernel.
    ("lockfree", &["ids", "sync", "fault", "layout::records", "layout::words", "lockfree"]),
    ("lockfree/mod.rs", &["os::futex", "os::barrier"]),
    // Floor 4: memory, which knows no jobs; formats and numbers, which know nothing but errors.
    ("arena", &["error", "sync", "os", "layout::records", "arena"]),
    ("formats", &["error", "sync", "formats"]),
    // What it makes are files of the system.
    ("formats/output.rs", &["os::file"]),
    ("numeric", &["error", "numeric"]),
    // Beside the engine: messages, which know no jobs.
    (
        "channel",
        &["error", "ids", "sync", "fault", "panics", "watchdog", "os", "layout", "lockfree", "arena", "channel"],
    ),
    // Beside it as well: processes, and a host for those that run no jobs. They know neither jobs nor messages.
    ("process_host", &["error", "sync", "fault", "os", "layout::geometry", "arena", "process_host"]),
    // Floor 5: jobs. They know no files and no numbers.
    (
        "engine",
        &[
            "error",
            "ids",
            "sync",
            "fault",
            "panics",
            "watchdog",
            "os",
            "layout",
            "lockfree",
            "arena",
            "process_host",
            "engine",
            "kernel",
            "reducer",
        ],
    ),
    // Floor 6: the front, which knows everything below it.
    (
        "front",
        &[
            "error",
            "ids",
            "sync",
            "panics",
            "os",
            "arena",
            "channel",
            "formats",
            "numeric",
            "process_host",
            "engine",
            "front",
            "kernel",
            "reducer",
        ],
    ),
    // Beside the floors, for fuzz targets only.
    (
        "fuzz/worlds",
        &[
            "error",
            "ids",
            "sync",
            "os",
            "layout",
            "lockfree",
            "arena",
            "channel",
            "formats",
            "process_host",
            "engine",
            "front",
            "kernel",
            "fuzzing",
        ],
    ),
];

/// The files that may contain unsafe code.
pub(super) const UNSAFE_FILES: &[&str] = &[
    "arena/batch.rs",
    "arena/mod.rs",
    "arena/shared.rs",
    "crates/cli/src/startup.rs",
    "engine/kernel/frame.rs",
    "engine/kernel/traits.rs",
    "engine/runtime/engine_ref.rs",
    "engine/job/closure_slot.rs",
    "engine/job/local_slot.rs",
    "engine/exec/closures.rs",
    "engine/fork_join/forked_job.rs",
    "engine/fork_join/join.rs",
    "engine/fork_join/member.rs",
    "engine/fork_join/phase.rs",
    "engine/fork_join/scope.rs",
    "engine/exec/once_parts.rs",
    "engine/exec/runner.rs",
    "front/algorithms/merge_sort.rs",
    "front/engine/tiles.rs",
    "front/grid/view.rs",
    "front/process/external_worker.rs",
    "layout/view.rs",
    "lockfree/prefetch.rs",
    "numeric/packed.rs",
    "numeric/streaming.rs",
    "os/fork.rs",
    "os/region.rs",
];

/// The most lines a file may have before its tests. A hint that it may hold two concepts; an `impl` is not split for it.
const LINES_MAX: usize = 800;

/// Files that may be longer, with the reason.
const LONGER_FILES: &[(&str, &str)] = &[];

/// Folders and files whose accesses may be sequentially consistent, with the reason.
const SEQUENTIAL: &[(&str, &str)] =
    &[("arena/shared/", "ECMA-262 says so of Atomics, and the model checker knows none of it")];

/// Dependency lines that one comment may stand above.
const LINES_PER_COMMENT_MAX: usize = 3;

/// Folders beside `src/` whose files are held to the same rules, with the path of the module that each is.
const BESIDE: &[(&str, &str)] = &[("fuzz/worlds/", "fuzzing/"), (COMMAND, "")];

/// The command: a crate of its own, which has the public interface of the library and itself.
const COMMAND: &str = "crates/cli/src/";

/// A source file below `src/`, or in a folder beside it.
#[derive(Clone)]
pub(super) struct Source {
    /// Path below `src/`, or below the root where it lies elsewhere, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// The text with comments and literals blanked out, line by line as long as before.
    pub(super) code: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: code_of(text) }
    }

    /// Path below the root of its crate, as if modules lay where their names say.
    pub(super) fn module_path(&self) -> String {
        let beside =
            BESIDE.iter().find_map(|(folder, module)| Some(format!("{module}{}", self.path.strip_prefix(folder)?)));
        beside.unwrap_or_else(|| self.path.clone())
    }

    pub(super) fn is_of_the_command(&self) -> bool {
        self.path.starts_with(COMMAND)
    }
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder`, sorted; none when there is no such folder.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // What a package of its own was built into, or fetched, is no source.
            if path.file_name().is_some_and(|name| name != "target" && name != "node_modules") {
                found.extend(files_below(&path));
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(super) fn relative(path: &Path, base: &Path) -> String {
    path.strip_prefix(base).unwrap().to_str().unwrap().replace('\\', "/")
}

/// The source files of a folder, with their paths below it.
pub(super) fn rust_below(folder: &str) -> Vec<Source> {
    let base = root().join(folder);
    let rust =
        files_below(&base).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| Source::new(&relative(&path, &base), &fs::read_to_string(&path).unwrap())).collect()
}

pub(super) fn sources() -> Vec<Source> {
    let mut sources = rust_below("src");
    assert!(sources.len() > 40, "only {} source files were found", sources.len());
    for (folder, _) in BESIDE {
        let mut beside = rust_below(folder);
        beside.iter_mut().for_each(|source| source.path.insert_str(0, folder));
        assert!(beside.len() > 6, "only {} source files were found in {folder}", beside.len());
        sources.extend(beside);
    }
    sources
}

/// What a byte of a source text belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Code,
    Comment,
    Literal,
}

/// Blanks out comments, strings and characters, keeping every line break.
fn code_of(text: &str) -> String {
    blanked(text, Piece::Code)
}

/// Blanks out everything but comments, keeping every line break.
fn comments_of(text: &str) -> String {
    blanked(text, Piece::Comment)
}

fn blanked(text: &str, kept: Piece) -> String {
    let bytes = text.as_bytes();
    let mut left = Vec::with_capacity(bytes.len());
    let (mut at, mut last) = (0, b' ');
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (piece, len) = match rest {
            [b'/', b'/', ..] => (Piece::Comment, rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())),
            [b'/', b'*', ..] => (Piece::Comment, block_comment_len(rest)),
            _ => match literal_len(rest, last) {
                0 => (Piece::Code, 1),
                len => (Piece::Literal, len),
            },
        };
        let end = (at + len).min(bytes.len());
        let is_kept = |byte: u8| piece == kept || byte == b'\n';
        left.extend(bytes[at..end].iter().map(|&byte| if is_kept(byte) { byte } else { b' ' }));
        last = if piece == Piece::Code { bytes[at] } else { b' ' };
        at = end;
    }
    String::from_utf8(left.iter().map(|&byte| if byte.is_ascii() { byte } else { b'?' }).collect()).unwrap()
}

/// The length of the string or character that `rest` begins with behind the byte `last`; 0 where it begins with none.
fn literal_len(rest: &[u8], last: u8) -> usize {
    match rest {
        [b'"', ..] => string_len(rest),
        [b'r', b'"' | b'#', ..] if !is_word(last) || last == b'b' => raw_string_len(rest).unwrap_or(0),
        [b'\'', b'\\', ..] => 2 + rest.iter().skip(3).position(|&byte| byte == b'\'').map_or(0, |end| end + 2),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment_len(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_len(bytes: &[u8]) -> Option<usize> {
    let hashes = bytes[1..].iter().position(|&byte| byte != b'#')?;
    if bytes.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = 2 + hashes;
    let end = bytes[body..].windows(close.len()).position(|window| window == close)?;
    Some(body + end + close.len())
}

/// Positions of a whole word in blanked code.
pub(super) fn positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
        let after = code.as_bytes().get(at + word.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The length of the word that a text begins with.
pub(super) fn end_of_word(text: &str) -> usize {
    text.bytes().position(|byte| !is_word(byte)).unwrap_or(text.len())
}

/// The paths that a `use` tree or path names whose text begins at `at`, right behind `crate::`.
pub(super) fn paths_at(code: &str, at: usize) -> Vec<String> {
    let rest = code[at..].trim_start();
    let mut paths = Vec::new();
    if let Some(group) = rest.strip_prefix('{') {
        let (mut depth, mut start) = (1, 0);
        for (end, character) in group.char_indices() {
            depth += match character {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            if depth == 0 || (depth == 1 && character == ',') {
                paths.extend(paths_at(&group[start..end], 0));
                start = end + 1;
            }
            if depth == 0 {
                break;
            }
        }
        return paths;
    }
    let (name, behind) = rest.split_at(end_of_word(rest));
    if name.is_empty() {
        return paths;
    }
    match behind.trim_start().strip_prefix("::") {
        Some(deeper) if !deeper.trim_start().starts_with('<') => {
            let below = paths_at(deeper, 0);
            if below.is_empty() {
                paths.push(name.to_owned());
            }
            paths.extend(below.into_iter().map(|path| format!("{name}::{path}")));
        }
        _ => paths.push(name.to_owned()),
    }
    paths
}

/// Every path of the crate that a file names, from the crate's root on, with its line. Follows `crate::` and chains of
/// `super::` that end at the root.
fn named_paths(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut named = Vec::new();
    for at in positions(code, "crate") {
        let is_macro_path = code[..at].ends_with('$');
        if let Some(rest) = code[at + 5..].strip_prefix("::").filter(|_| !is_macro_path) {
            let begin = code.len() - rest.len();
            named.extend(paths_at(code, begin).into_iter().map(|path| (line_of(code, at), path)));
        }
    }
    // A file `a/b.rs` is the module `a::b`, `a/mod.rs` is `a`; inline modules lie deeper.
    let path = source.module_path();
    let depth_of_file = path.matches('/').count() + usize::from(!path.ends_with("mod.rs"));
    for at in positions(code, "super") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let chain = code[at..].split("::").take_while(|part| *part == "super").count();
        if chain == depth_of_file + inline_modules_around(code, at) {
            named.extend(paths_at(code, at + 7 * chain).into_iter().map(|path| (line_of(code, at), path)));
        }
    }
    named
}

/// How many `mod name { .. }` a position lies in.
fn inline_modules_around(code: &str, at: usize) -> usize {
    let mut open = Vec::new();
    let mut statement = 0;
    for (here, byte) in code.bytes().enumerate().take(at) {
        match byte {
            b'{' => {
                open.push(positions(&code[statement..here], "mod").next().is_some());
                statement = here + 1;
            }
            b'}' => {
                open.pop();
                statement = here + 1;
            }
            b';' => statement = here + 1,
            _ => {}
        }
    }
    open.into_iter().filter(|is_module| *is_module).count()
}

/// The longest entry of `MAY_NAME` for a file gives its permissions; an entry for a file adds to that of its folder.
fn check_floors(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| source.path != "lib.rs" && !source.is_of_the_command()) {
        let applies = |name: &str| {
            source.path == name
                || source.path.strip_suffix(".rs") == Some(name)
                || source.path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
        };
        let entries: Vec<_> = MAY_NAME.iter().filter(|(name, _)| applies(name)).collect();
        if entries.is_empty() {
            violations
                .push(format!("{}: belongs to no floor; add it to the list and to docs/architecture.md", source.path));
        }
        let allowed: Vec<&str> = entries.iter().flat_map(|(_, allowed)| allowed.iter().copied()).collect();
        for (line, path) in named_paths(source) {
            let is_below = |prefix: &&str| {
                path.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            if !allowed.iter().any(is_below) {
                violations.push(format!("{}:{line}: must not know crate::{path}", source.path));
            }
        }
    }
    violations
}

/// What is not for strangers: hidden names of the library, its files in the place of its names, and its features.
fn check_public_only(sources: &[Source], manifest: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        for word in ["__private", "fuzzing", "path"] {
            for at in positions(&source.code, word) {
                let is_attribute = source.code[..at].trim_end().ends_with("#[");
                let is_of_library = source.code[..at].trim_end().ends_with("workring::");
                if if word == "path" { is_attribute } else { is_of_library } {
                    let line = line_of(&source.code, at);
                    violations.push(format!("{}:{line}: {word} is not the public interface", source.path));
                }
            }
        }
    }
    for (at, line) in manifest.lines().enumerate().filter(|(_, line)| line.starts_with("workring =")) {
        if line.contains("features") {
            violations.push(format!("Cargo.toml:{}: a feature of the library is not for strangers", at + 1));
        }
    }
    violations
}

/// Words in comments that stand for a party without naming it.
const NAMELESS: &[&str] = &["who", "whoever", "whom", "whomever"];

/// Comments that leave open which thread, process or caller they speak of.
fn check_nouns(path: &str, text: &str) -> Vec<String> {
    let comments = comments_of(text).to_ascii_lowercase();
    let found = NAMELESS.iter().flat_map(|word| positions(&comments, word).map(move |at| (at, word)));
    found.map(|(at, word)| format!("{path}:{}: \"{word}\": name the party", line_of(text, at))).collect()
}

/// Whether a comment with `text` ends right above `line` (a line of the text, from 1), attributes between them aside, or
/// lies in the two lines below it.
fn is_explained(lines: &[&str], line: usize, marks: &[&str]) -> bool {
    let has_mark = |line: &&str| line.contains("//") && marks.iter().any(|mark| line.contains(mark));
    if lines[line - 1..lines.len().min(line + 2)].iter().any(has_mark) {
        return true;
    }
    // Up through the statement the word stands in, then through the comment above it.
    let mut in_comment = false;
    for above in lines[..line - 1].iter().rev() {
        let above = above.trim();
        if above.starts_with("//") {
            in_comment = true;
            if has_mark(&above) {
                return true;
            }
        } else if in_comment || above.is_empty() || above.ends_with([';', '}']) {
            return false;
        }
    }
    false
}

/// The exact list of files with unsafe code, the laws at their head, and a proof or a contract at every use.
fn check_unsafe(sources: &[Source], list: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let Source { path, text, code } = source;
        let listed = list.contains(&path.as_str());
        if code.contains("allow(unsafe_code)") != listed {
            let should = if listed { "is on" } else { "is not on" };
            violations
                .push(format!("{path}: {should} the list of files with unsafe code, but its head says otherwise"));
        }
        let lines: Vec<&str> = text.lines().collect();
        let head: Vec<&str> = lines.iter().copied().take_while(|line| line.starts_with("//!")).collect();
        let says = |text: &str| head.iter().any(|line| line.contains(text));
        if listed && !(says("Laws") && says("! 1. ") && says("! 2. ")) {
            violations.push(format!("{path}: the module's page must name its laws, numbered"));
        }
        for at in positions(code, "unsafe") {
            let line = line_of(code, at);
            let behind = code[at + 6..].trim_start();
            if !listed {
                violations.push(format!("{path}:{line}: unsafe code outside the listed files"));
                continue;
            }
            let is_pointer_type = behind.strip_prefix("fn").is_some_and(|rest| rest.trim_start().starts_with('('));
            let is_contract = behind.starts_with("fn") || behind.starts_with("trait");
            let marks: &[&str] = if is_contract { &["# Safety", "SAFETY:"] } else { &["SAFETY:"] };
            let is_foreign = behind.starts_with("extern");
            if !is_pointer_type && !is_foreign && !is_explained(&lines, line, marks) {
                violations.push(format!("{path}:{line}: unsafe without a SAFETY comment or a Safety section"));
            }
        }
    }
    for listed in list.iter().filter(|listed| !sources.iter().any(|source| source.path == **listed)) {
        violations.push(format!("{listed}: is on the list of files with unsafe code and does not exist"));
    }
    violations
}

fn check_ascii(path: &str, bytes: &[u8]) -> Vec<String> {
    let bad = bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_ascii());
    bad.map(|(at, _)| format!("{path}:{}: a character that is not ASCII", at + 1)).collect()
}

/// Lines before the first test.
pub(super) fn lines_before_tests(text: &str) -> usize {
    let is_test =
        |line: &str| line.strip_prefix("#[cfg(").is_some_and(|rest| positions(&code_of(rest), "test").next().is_some());
    text.lines().take_while(|line| !is_test(line)).count()
}

fn check_lengths(sources: &[Source], longer: &[(&str, &str)]) -> Vec<String> {
    let too_long = |source: &&Source| {
        lines_before_tests(&source.text) >= LINES_MAX && !longer.iter().any(|(path, _)| *path == source.path)
    };
    let say = |source: &Source| format!("{}: {} lines before its tests", source.path, lines_before_tests(&source.text));
    sources.iter().filter(too_long).map(say).collect()
}

/// Sequential consistency is for fences: as an access it hides what is meant, and the model checker weakens it.
fn check_orderings(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| !SEQUENTIAL.iter().any(|(path, _)| source.path.starts_with(path))) {
        for at in positions(&source.code, "SeqCst") {
            let before: String = source.code[..at].split_whitespace().collect();
            if !before.ends_with("fence(Ordering::") {
                let line = line_of(&source.code, at);
                violations.push(format!("{}:{line}: SeqCst outside a fence", source.path));
            }
        }
    }
    violations
}

/// The anchors of a Markdown text's headings, as the usual renderers make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    let anchor = |heading: &String| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
        kept.map(|character| if character == ' ' { '-' } else { character }).collect()
    };
    headings.iter().map(anchor).collect()
}

/// A Markdown text without its code blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        kept.push_str(if inside || is_fence { "" } else { line });
        kept.push('\n');
    }
    kept
}

/// Relative links and their anchors. `read` gives the text of a file, an empty one for a folder, or `None`.
fn check_links(path: &str, text: &str, read: &dyn Fn(&Path) -> Option<String>) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut violations = Vec::new();
    for link in prose(text).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if link.contains("://") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { Some(text.to_owned()) } else { read(&folder.join(file)) };
        match target {
            None => violations.push(format!("{path}: the link to {link} leads nowhere")),
            Some(text) if !anchor.is_empty() && !anchors(&text).contains(anchor) => {
                violations.push(format!("{path}: the link to {link} names no heading"));
            }
            Some(_) => {}
        }
    }
    violations
}

/// Sections that comments cite as "docs/NAME.md", with the quoted heading behind it.
fn check_citations(source: &Source, read: &dyn Fn(&Path) -> Option<String>) -> Vec<String> {
    let mut violations = Vec::new();
    for (at, _) in source.text.match_indices("`docs/") {
        let Some((file, behind)) = source.text[at + 1..].split_once('`') else { continue };
        let line = line_of(&source.text, at);
        let Some(text) = read(Path::new(file)) else {
            violations.push(format!("{}:{line}: {file} does not exist", source.path));
            continue;
        };
        if let Some(heading) = behind.strip_prefix(", \"").and_then(|rest| rest.split('"').next()) {
            let heading = heading.trim_end_matches(['.', ',']);
            if !text.lines().any(|line| line.starts_with('#') && line.trim_start_matches('#').trim() == heading) {
                violations.push(format!("{}:{line}: {file} has no section \"{heading}\"", source.path));
            }
        }
    }
    violations
}

/// Every dependency and feature has its reason above it.
fn check_manifest(manifest: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let mut section = "";
    let mut left = 0;
    for (at, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            (section, left) = (line, 0);
        } else if line.starts_with('#') {
            left = LINES_PER_COMMENT_MAX;
        } else if line.is_empty() {
            left = 0;
        } else if section.contains("dependencies") || section == "[features]" {
            if left == 0 {
                violations.push(format!("Cargo.toml:{}: no comment says why: {line}", at + 1));
            }
            left = left.saturating_sub(1);
        }
    }
    violations
}

/// Every source file has its line in the code map.
fn check_code_map(folders: &BTreeSet<String>, architecture: &str) -> Vec<String> {
    let missing = folders.iter().filter(|folder| !architecture.contains(&format!("\n| `{folder}/` |")));
    missing.map(|folder| format!("docs/architecture.md: the code map has no line for `{folder}/`")).collect()
}

/// Fields of the records in `layout/records.rs` with offset and size in bytes, by record.
fn record_fields(records: &str) -> BTreeMap<String, Vec<(u64, u64, String)>> {
    let code = code_of(records);
    let mut constants = BTreeMap::new();
    for at in positions(&code, "const") {
        let Some((name, rest)) = code[at + 5..].split_once(':') else { continue };
        if let Some(value) = rest.split_once('=').and_then(|(_, rest)| rest.split(';').next()) {
            let value = product(value, &constants);
            constants.insert(name.trim().to_owned(), value.unwrap_or(0));
        }
    }
    let mut records = BTreeMap::new();
    for at in positions(&code, "struct") {
        let Some((name, body)) = code[at + 6..].split_once('{') else { continue };
        let body = body.split('}').next().unwrap_or("");
        let (mut offset, mut fields) = (0, Vec::new());
        for field in body.split(',').filter(|field| !field.trim().is_empty()) {
            let (name, ty) = field.split_once(':').unwrap();
            let size = size_of_field(ty.trim(), &constants).unwrap_or_else(|| panic!("what is the size of {ty}?"));
            fields.push((offset, size, name.trim().trim_start_matches("pub(crate)").trim().to_owned()));
            offset += size;
        }
        records.insert(name.trim().to_owned(), fields);
    }
    records
}

fn size_of_field(ty: &str, constants: &BTreeMap<String, u64>) -> Option<u64> {
    match ty {
        "AtomicU32" | "u32" => Some(4),
        "AtomicU64" | "u64" => Some(8),
        "BatchReference" => Some(16),
        "Histogram" => Some(2624),
        array => {
            let (element, count) = array.strip_prefix('[')?.strip_suffix(']')?.split_once(';')?;
            Some(size_of_field(element.trim(), constants)? * product(count, constants)?)
        }
    }
}

/// The value of `a`, `a * b`, `a / b` or `a - b` over numbers and constants.
fn product(text: &str, constants: &BTreeMap<String, u64>) -> Option<u64> {
    let value = |word: &str| word.trim().parse().ok().or_else(|| constants.get(word.trim()).copied());
    for (sign, apply) in [('*', (|a, b| a * b) as fn(u64, u64) -> u64), ('/', |a, b| a / b), ('-', |a, b| a - b)] {
        if let Some((left, right)) = text.split_once(sign) {
            return Some(apply(value(left)?, value(right)?));
        }
    }
    value(text)
}

/// The byte tables of `docs/layout.md`: below the heading that names a record in backquotes, each row of the form
/// "offset, size, field" must be true, and no field may be missing.
fn check_layout_tables(layout: &str, records: &BTreeMap<String, Vec<(u64, u64, String)>>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut tables: BTreeMap<&str, Vec<(u64, u64, String)>> = BTreeMap::new();
    let mut record = "";
    for line in layout.lines() {
        if line.starts_with('#') {
            record = line.split('`').nth(1).unwrap_or("");
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, offset, size, field, ..] = cells[..]
            && let (Ok(offset), Ok(size)) = (offset.parse(), size.parse())
            && records.contains_key(record)
        {
            tables.entry(record).or_default().push((offset, size, field.trim_matches('`').to_owned()));
        }
    }
    for (name, fields) in records {
        if tables.get(name.as_str()) != Some(fields) {
            let documented = tables.get(name.as_str());
            violations.push(format!("docs/layout.md: `{name}` is {fields:?}, documented as {documented:?}"));
        }
    }
    violations
}

pub(super) fn report(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

pub(super) fn read_below_root(path: &Path) -> Option<String> {
    let path = root().join(path);
    if path.is_dir() { Some(String::new()) } else { fs::read_to_string(path).ok() }
}

/// The pages of the project, with their paths below its root.
pub(super) fn markdown() -> Vec<(String, String)> {
    let mut paths = files_below(&root().join("docs"));
    paths.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|page| root().join(page)));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.iter().map(|path| (relative(path, root()), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn files_know_their_own_floor_and_those_below() {
    report(check_floors(&sources()));
    let bad = |path: &str, text: &str| check_floors(&[Source::new(path, text)]).len();
    assert_eq!(bad("lockfree/ring.rs", "use crate::layout::view::Control;"), 1);
    assert_eq!(bad("lockfree/ring.rs", "use crate::{ids::A, layout::{records::B, geometry::C}, error};"), 2);
    assert_eq!(bad("arena/mod.rs", "fn f() { super::engine::runtime::core::g() }"), 1);
    assert_eq!(bad("arena/mod.rs", "mod tests { use super::engine; use super::super::engine; }"), 1);
    assert_eq!(bad("arena/alloc.rs", "use super::super::lockfree::job;"), 1);
    assert_eq!(bad("os/map.rs", "fn f() { let x = crate::layout::words::State::Free; }"), 1);
    assert_eq!(bad("fuzz/worlds/channel/ends.rs", "use super::super::world; use super::super::super::numeric;"), 1);
    assert_eq!(bad("fuzz/worlds/mod.rs", "use self::world::World; use super::numeric;"), 1);
    assert_eq!(bad("extra/new.rs", ""), 1);
    assert_eq!(bad("lockfree/ring.rs", "// crate::engine\nconst A: &str = \"crate::engine\"; use crate::ids::B;"), 0);
    assert_eq!(bad("engine/kernel.rs", "macro_rules! k { () => { $crate::Engine } }"), 0);
    assert_eq!(bad("layout/view.rs", "use crate::os::{map::Mapping, futex};"), 1);
}

#[test]
fn the_command_uses_the_public_interface_alone() {
    let read = |path: &str| read_below_root(Path::new(path)).unwrap();
    let manifest = read("crates/cli/Cargo.toml");
    assert!(manifest.lines().any(|line| line.starts_with("workring =")), "the command is made of the library");
    let command: Vec<Source> = sources().into_iter().filter(Source::is_of_the_command).collect();
    report(check_public_only(&command, &manifest));
    let bad = |text: &str| check_public_only(&[Source::new("crates/cli/src/a.rs", text)], "").len();
    assert_eq!(bad("use workring::__private::Frame; workring::fuzzing::attach(&[]);"), 2);
    assert_eq!(bad("#[path = \"../../../src/sync.rs\"]\nmod sync;"), 1);
    assert_eq!(bad("fn f(path: &Path) { crate::fuzzing() } // workring::__private"), 0);
    assert_eq!(check_public_only(&[], "workring = { path = \"../..\", features = [\"fault\"] }").len(), 1);
    assert_eq!(check_public_only(&[], "clap = { version = \"4\", features = [\"derive\"] }").len(), 0);
}

#[test]
fn unsafe_code_lives_in_the_listed_files_and_is_explained() {
    let sources = sources();
    report(check_unsafe(&sources, UNSAFE_FILES));
    for root in ["lib.rs".to_owned(), format!("{COMMAND}main.rs")] {
        let root = sources.iter().find(|source| source.path == root).unwrap();
        assert!(root.code.contains("#![deny(unsafe_code)]"), "{}", root.path);
    }
    let head = "//! Laws of this file:\n//! 1. One.\n//! 2. Two.\n#![allow(unsafe_code)]\n";
    let bad = |text: &str| check_unsafe(&[Source::new("a.rs", text)], &["a.rs"]).len();
    assert_eq!(bad(&format!("{head}// SAFETY: law 1.\nlet a = unsafe {{ b() }};")), 0);
    assert_eq!(bad(&format!("{head}/// # Safety\n/// Do.\n#[inline]\nunsafe fn b() {{}}")), 0);
    assert_eq!(bad(&format!("{head}/// # Safety\n/// Promise.\npub unsafe trait B {{}}")), 0);
    assert_eq!(bad(&format!("{head}/// No word.\npub unsafe trait B {{}}")), 1);
    assert_eq!(bad(&format!("{head}let a = unsafe {{ b() }};")), 1);
    assert_eq!(bad(&format!("{head}// SAFETY: law 1.\nlet c = d;\nlet a = unsafe {{ b() }};")), 1);
    assert_eq!(bad(&format!("{head}unsafe impl Send for A {{}}")), 1);
    assert_eq!(bad(&format!("{head}unsafe fn b() {{}}")), 1);
    assert_eq!(bad(&format!("{head}struct A {{ b: unsafe fn(u8) }}")), 0);
    assert_eq!(bad("#![allow(unsafe_code)]\n"), 1, "no laws");
    assert_eq!(bad("//! Laws\n//! 1. One.\n//! 2. Two.\n"), 1, "on the list without need");
    assert_eq!(check_unsafe(&[Source::new("b.rs", "fn f() { unsafe { g() } }")], &[]).len(), 1);
    assert_eq!(check_unsafe(&[Source::new("b.rs", "#![allow(unsafe_code)]")], &[]).len(), 1);
    assert_eq!(check_unsafe(&[], &["gone.rs"]).len(), 1);
}

#[test]
fn comments_name_the_party_they_speak_of() {
    report(sources().iter().flat_map(|source| check_nouns(&source.path, &source.text)).collect());
    let bad = |text: &str| check_nouns("a.rs", text).len();
    assert_eq!(bad("/// Wakes those who wait.\nfn f() {} // Whoever reads it.\n/* for\nwhom */"), 3);
    assert_eq!(bad("let who = \"// who\"; // the whole, at the caller's\n//! Whose it is: '\"'. \n"), 0);
    assert_eq!(check_nouns("a.rs", "let url = \"http://a\"; // who"), ["a.rs:1: \"who\": name the party"]);
}

#[test]
fn everything_is_ascii() {
    let mut paths = Vec::new();
    for folder in ["src", "crates", "tests", "benches", "examples", "docs", ".ci", "fuzz/fuzz_targets", "fuzz/worlds"] {
        paths.extend(files_below(&root().join(folder)));
    }
    paths.retain(|path| !path.starts_with(root().join("examples/data")));
    for name in [
        "Cargo.toml",
        "fuzz/Cargo.toml",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        ".gitignore",
        ".rustfmt.toml",
    ] {
        paths.push(root().join(name));
    }
    report(paths.iter().flat_map(|path| check_ascii(&relative(path, root()), &fs::read(path).unwrap())).collect());
    assert_eq!(
        check_ascii("a", "x\n\u{e9}\ny \u{2019}".as_bytes()),
        ["a:2: a character that is not ASCII", "a:3: a character that is not ASCII"]
    );
}

#[test]
fn files_are_short_enough_to_be_read() {
    report(check_lengths(&sources(), LONGER_FILES));
    let macros = files_below(&root().join("crates/macros/src"));
    let macros: Vec<Source> =
        macros.iter().map(|path| Source::new(&relative(path, root()), &fs::read_to_string(path).unwrap())).collect();
    report(check_lengths(&macros, &[]));
    let long = "let a = b;\n".repeat(LINES_MAX);
    assert_eq!(check_lengths(&[Source::new("a.rs", &long)], &[]).len(), 1);
    assert_eq!(check_lengths(&[Source::new("a.rs", &long)], &[("a.rs", "reason")]).len(), 0);
    let tested = format!("let a = b;\n#[cfg(all(test, not(workring_loom)))]\n{long}");
    assert_eq!(check_lengths(&[Source::new("a.rs", &tested)], &[]).len(), 0);
    assert_eq!(check_lengths(&[Source::new("a.rs", &format!("#[cfg(feature = \"test\")]\n{long}"))], &[]).len(), 1);
}

#[test]
fn sequential_consistency_is_for_fences() {
    let sources = sources();
    report(check_orderings(&sources));
    let fences: usize = sources.iter().map(|source| positions(&source.code, "SeqCst").count()).sum();
    assert!(fences > 0, "the wake protocol has fences");
    let bad = |text: &str| check_orderings(&[Source::new("a.rs", text)]).len();
    assert_eq!(bad("fence(Ordering::SeqCst); fence(\n    Ordering::SeqCst,\n);"), 0);
    assert_eq!(bad("word.load(Ordering::SeqCst);"), 1);
    assert_eq!(bad("use core::sync::atomic::Ordering::SeqCst;"), 1);
    assert_eq!(bad("// word.load(Ordering::SeqCst)"), 0);
    let sequential = Source::new("arena/shared/element.rs", "word.load(Ordering::SeqCst);");
    assert_eq!(check_orderings(&[sequential]).len(), 0);
    assert!(SEQUENTIAL.iter().all(|(path, _)| sources.iter().any(|source| source.path.starts_with(path))));
}

#[test]
fn links_and_cited_sections_exist() {
    let files = markdown();
    assert!(files.len() >= 4, "only {} pages were found", files.len());
    report(files.iter().flat_map(|(path, text)| check_links(path, text, &read_below_root)).collect());
    report(sources().iter().flat_map(|source| check_citations(source, &read_below_root)).collect());

    let read = |path: &Path| (path == Path::new("docs/b.md")).then(|| "# The Head, again\n".to_owned());
    let bad = |text: &str| check_links("docs/a.md", text, &read).len();
    assert_eq!(bad("[b](b.md) [c](b.md#the-head-again) [d](https://example.org/x)"), 0);
    assert_eq!(bad("[b](c.md)"), 1);
    assert_eq!(bad("[b](b.md#head)"), 1);
    assert_eq!(bad("# Here\n[h](#here) [t](#there)"), 1);
    assert_eq!(bad("```text\n[b](c.md)\n```\n"), 0);
    let cited = |text: &str| check_citations(&Source::new("a.rs", text), &read).len();
    assert_eq!(cited("//! See `docs/b.md`, \"The Head, again\"."), 0);
    assert_eq!(cited("//! See `docs/b.md`, \"The Tail\"."), 1);
    assert_eq!(cited("//! See `docs/c.md`."), 1);
}

#[test]
fn every_dependency_has_a_reason() {
    let mut manifests = Vec::new();
    for folder in ["crates", "fuzz", "benches", "examples"] {
        manifests.extend(files_below(&root().join(folder)));
    }
    manifests.retain(|path| path.ends_with("Cargo.toml"));
    assert!(manifests.len() >= 6, "only {manifests:?} were found");
    manifests.push(root().join("Cargo.toml"));
    report(manifests.iter().flat_map(|path| check_manifest(&fs::read_to_string(path).unwrap())).collect());
    assert_eq!(check_manifest("[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\nc = \"1\"\n").len(), 0);
    assert_eq!(check_manifest("[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\nc = \"1\"\nd = \"1\"\n").len(), 1);
    assert_eq!(check_manifest("[target.'cfg(unix)'.dependencies]\na = \"1\"\n").len(), 1);
    assert_eq!(check_manifest("# Why.\n[dev-dependencies]\na = \"1\"\n").len(), 1);
    assert_eq!(check_manifest("[dependencies]\n# Why.\na = \"1\"\n\nb = \"1\"\n").len(), 1);
    assert_eq!(check_manifest("[package]\nname = \"a\"\n").len(), 0);
}

#[test]
fn the_code_map_is_complete() {
    let architecture = read_below_root(Path::new("docs/architecture.md")).unwrap();
    let sources = ["src", "crates", "fuzz"].into_iter().flat_map(|folder| files_below(&root().join(folder)));
    let paths: Vec<String> = sources.map(|path| relative(&path, root())).collect();
    let rust = paths.iter().filter(|path| path.ends_with(".rs") && !path.contains("/tests/"));
    let folders: BTreeSet<String> = rust.filter_map(|path| Some(path.rsplit_once('/')?.0.to_owned())).collect();
    assert!(folders.len() >= 15, "only {folders:?} were found");
    report(check_code_map(&folders, &architecture));
    // And names nothing that is gone.
    let named = architecture.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs") && word.contains('/'));
    let gone = |path: &&str| {
        read_below_root(Path::new(path)).is_none() && read_below_root(&Path::new("src").join(path)).is_none()
    };
    report(named.filter(gone).map(|path| format!("docs/architecture.md: `{path}` does not exist")).collect());
    let folder = BTreeSet::from(["src/os".to_owned()]);
    assert_eq!(check_code_map(&folder, "\n| `src/` |").len(), 1);
    assert_eq!(check_code_map(&folder, "\n| `src/os/` |").len(), 0);
}

#[test]
fn the_byte_tables_say_what_the_records_are() {
    let layout = read_below_root(Path::new("docs/layout.md")).unwrap();
    let records = record_fields(&read_below_root(Path::new("src/layout/records.rs")).unwrap());
    assert_eq!(records["Descriptor"].iter().map(|(_, size, _)| size).sum::<u64>(), 128);
    assert!(records.len() >= 9, "only {} records were found", records.len());
    report(check_layout_tables(&layout, &records));
    let records = record_fields("const N: usize = 4;\nstruct A { pub(crate) a: AtomicU32, b: [AtomicU64; N / 2] }");
    let good = "## Record `A`\n| 0 | 4 | `a` | x |\n| 4 | 16 | `b` | y |\n";
    assert_eq!(check_layout_tables(good, &records).len(), 0);
    assert_eq!(check_layout_tables(&good.replace("| 4 | 16", "| 8 | 16"), &records).len(), 1);
    assert_eq!(check_layout_tables(&good.replace("| 0 | 4 | `a` | x |\n", ""), &records).len(), 1);
    assert_eq!(check_layout_tables("", &records).len(), 1);
}

/// The tests that a page names for what it promises.
fn named_tests(page: &str) -> Vec<&str> {
    let names = page.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| {
        name.len() > 20 && name.matches('_').count() > 2 && name.chars().all(|c| c == '_' || c.is_ascii_lowercase())
    };
    names.filter(is_test).collect()
}

#[test]
fn the_tests_that_a_page_names_exist() {
    let page = read_below_root(Path::new("docs/from-node.md")).unwrap();
    let traps = page.split_once("## Their traps").expect("the page has a chapter of traps").1;
    let named = named_tests(traps);
    assert!(named.len() >= 20, "only {} tests are named", named.len());
    let paths = ["tests", "crates/cli/tests"].map(|folder| files_below(&root().join(folder))).concat();
    let tests: String = paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    report(
        named
            .iter()
            .filter(|name| !tests.contains(&format!("fn {name}(")))
            .map(|name| format!("there is no test {name}"))
            .collect(),
    );
    assert_eq!(
        named_tests("`a_test_that_is_not_here_at_all` and `Type::name`, `short_one`"),
        ["a_test_that_is_not_here_at_all"]
    );
}

/// The names that each public module of the crate's root has.
fn names_of_modules(lib: &str) -> BTreeMap<String, BTreeSet<String>> {
    let code = code_of(lib);
    let mut modules = BTreeMap::new();
    for at in positions(&code, "pub mod").collect::<Vec<_>>() {
        let rest = &code[at + 8..];
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let Some(body) = rest[name.len()..].trim_start().strip_prefix('{') else { continue };
        let body = &body[..body.find("\n}").unwrap_or(body.len())];
        let uses = positions(body, "pub use").flat_map(|at| paths_at(body, at + 8));
        modules.insert(name, uses.filter_map(|path| Some(path.rsplit("::").next()?.to_owned())).collect());
    }
    modules
}

#[test]
fn the_migration_table_names_what_the_modules_have() {
    let modules = names_of_modules(&read_below_root(Path::new("src/lib.rs")).unwrap());
    let changes = read_below_root(Path::new("CHANGELOG.md")).unwrap();
    let table = changes.split_once("| module | what moved there from the root |").expect("the table of modules").1;
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut listed = BTreeMap::new();
    for (module, names) in rows {
        let names: BTreeSet<String> = names.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        listed.insert(module.to_owned(), names);
    }
    assert!(listed.len() >= 7, "{listed:?}");
    for (module, names) in &modules {
        // Those of `kernels` beside the table are its own functions.
        if let Some(listed) = listed.get(module) {
            assert_eq!(names, listed, "{module}");
        }
    }
    let missing: Vec<_> =
        listed.keys().filter(|module| !modules.contains_key(*module) && *module != "kernels").collect();
    assert!(missing.is_empty(), "{missing:?}");
    let found = names_of_modules("pub mod a {\n    pub use crate::b::{C, d::{E, f}};\n}\npub mod g;\n");
    assert_eq!(found, BTreeMap::from([("a".to_owned(), ["C", "E", "f"].map(str::to_owned).into())]));
}
