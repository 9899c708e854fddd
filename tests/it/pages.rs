//! House rules of the pages and pictures. As in `tidy.rs`, each check is a function from text to a list of violations, run over the
//! repository and over a text that breaks the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::tidy::{MAY_NAME, UNSAFE_FILES, files_below, markdown, read_below_root, relative, report, root};

/// The most lines of the first page: what it has no room for has a page of its own.
const README_LINES_MAX: usize = 200;
/// The most bytes of a picture that is drawn for the pages.
const PICTURE_LEN_MAX: usize = 40 << 10;
/// Where those pictures are, beside the program that draws them.
const PICTURES: &str = "docs/pictures/";
/// The picture that names the files which a job passes.
const WAY: &str = "docs/pictures/way_of_a_job.svg";

fn check_readme(text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > README_LINES_MAX {
        return vec![format!("README.md: {lines} lines, more than {README_LINES_MAX}")];
    }
    Vec::new()
}

/// The pictures that a page shows, each with the text that stands for it.
fn pictures_of(text: &str) -> Vec<(&str, &str)> {
    let shown = text.split("![").skip(1).filter_map(|rest| rest.split_once(']'));
    shown.filter_map(|(instead, rest)| Some((instead, rest.strip_prefix('(')?.split(')').next()?))).collect()
}

/// What is wrong with an XML text: tags that do not nest, attributes without quotes, bare signs. Knows as much of XML as the pictures use.
fn xml_flaw(text: &str) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut roots = 0;
    let mut rest = text.trim();
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        if let Some(flaw) = text_flaw(before) {
            return Some(flaw);
        }
        if open.is_empty() && !before.trim().is_empty() {
            return Some(format!("text outside of the root: {}", before.trim()));
        }
        // A sign in a quoted value ends no tag.
        let mut quote = None;
        let end = tag.char_indices().find_map(|(at, sign)| match quote {
            None if sign == '>' => Some(at),
            None if at > 0 && (sign == '"' || sign == '\'') => {
                quote = Some(sign);
                None
            }
            Some(open) if sign == open => {
                quote = None;
                None
            }
            _ => None,
        });
        let Some(end) = end else { return Some(format!("a tag without end: {}", &tag[..tag.len().min(40)])) };
        let inside = &tag[1..end];
        rest = &tag[end + 1..];
        if let Some(name) = inside.strip_prefix('/') {
            if open.pop() != Some(name.trim()) {
                return Some(format!("</{name}> closes what is not open"));
            }
        } else if !inside.starts_with(['?', '!']) {
            let is_empty = inside.ends_with('/');
            let inside = inside.trim_end_matches('/');
            let name = inside.split_whitespace().next().unwrap_or("");
            if name.is_empty() || !name.chars().all(|sign| sign.is_ascii_alphanumeric() || "-_:".contains(sign)) {
                return Some(format!("a tag without a name: <{inside}>"));
            }
            let attributes: Vec<&str> = inside[name.len()..].split('"').collect();
            let (names, values): (Vec<_>, Vec<_>) = attributes.iter().enumerate().partition(|(at, _)| at % 2 == 0);
            let is_named = |(at, text): &(usize, &&str)| {
                if at + 1 == attributes.len() {
                    text.trim().is_empty()
                } else {
                    text.trim().ends_with('=') && text.trim().len() > 1
                }
            };
            if attributes.len().is_multiple_of(2) || !names.iter().all(is_named) {
                return Some(format!("attributes that are not name=\"value\": <{inside}>"));
            }
            if let Some(flaw) = values.iter().find_map(|(_, value)| text_flaw(value)) {
                return Some(flaw);
            }
            if open.is_empty() {
                roots += 1;
            }
            if !is_empty {
                open.push(name);
            }
        }
    }
    match open.last() {
        Some(name) => Some(format!("<{name}> is never closed")),
        None if roots != 1 || !rest.trim().is_empty() => Some(format!("{roots} roots, or text behind them")),
        None => None,
    }
}

/// An ampersand that begins no entity.
fn text_flaw(text: &str) -> Option<String> {
    let is_entity = |rest: &str| rest.split_once(';').is_some_and(|(name, _)| name.len() < 8 && !name.contains(' '));
    let bare = text.split('&').skip(1).find(|rest| !is_entity(rest));
    bare.map(|rest| format!("a bare & before: {}", &rest[..rest.len().min(20)]))
}

fn element<'a>(svg: &'a str, name: &str) -> &'a str {
    let body = svg.split_once(&format!("<{name}")).and_then(|(_, rest)| rest.split_once('>'));
    body.and_then(|(_, rest)| rest.split_once(&format!("</{name}>"))).map_or("", |(body, _)| body)
}

/// A picture that a page shows: well-formed, and if it is drawn for the pages also with a title and a description, short, readable on light
/// and dark pages, and without anything that lies elsewhere.
fn check_picture(path: &str, svg: &str) -> Vec<String> {
    let mut violations = Vec::new();
    if !svg.trim_start().starts_with("<svg ") {
        violations.push(format!("{path}: is no SVG"));
    }
    violations.extend(xml_flaw(svg).map(|flaw| format!("{path}: {flaw}")));
    if !path.starts_with(PICTURES) {
        return violations;
    }
    for name in ["title", "desc"] {
        if element(svg, name).trim().is_empty() {
            violations.push(format!("{path}: has no <{name}>"));
        }
    }
    if svg.len() > PICTURE_LEN_MAX {
        violations.push(format!("{path}: {} bytes, more than {PICTURE_LEN_MAX}", svg.len()));
    }
    if !svg.contains("prefers-color-scheme:dark") {
        violations.push(format!("{path}: has no colours for dark pages"));
    }
    for elsewhere in ["@import", "@font-face", "href=", "url(h", "<image", "<script"] {
        if svg.contains(elsewhere) {
            violations.push(format!("{path}: {elsewhere}: what it shows must be in it"));
        }
    }
    violations
}

/// The rows of the table whose head begins with these cells, as cells.
fn table<'a>(page: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let Some((_, body)) = page.split_once(head) else { return Vec::new() };
    let rows = body.lines().skip(1).skip_while(|line| line.starts_with("|---"));
    rows.take_while(|line| line.starts_with('|')).map(|row| row.split('|').map(str::trim).collect()).collect()
}

/// The words in backquotes of a cell.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The table of files with unsafe code says what the list says.
fn check_unsafe_table(architecture: &str, list: &[&str]) -> Vec<String> {
    let rows = table(architecture, "| file | why |");
    let named: Vec<&str> = rows.iter().filter_map(|row| quoted(row.get(1)?).next()).collect();
    let mut violations = Vec::new();
    for file in list.iter().filter(|file| !named.contains(file)) {
        violations.push(format!("docs/architecture.md: the table of unsafe code has no row for {file}"));
    }
    for (at, file) in named.iter().enumerate() {
        if !list.contains(file) || named[..at].contains(file) {
            violations.push(format!("docs/architecture.md: {file} has no unsafe code, or is twice in the table of it"));
        }
    }
    let without_reason = rows.iter().filter(|row| row.get(2).is_none_or(|why| why.is_empty()));
    violations.extend(without_reason.map(|row| format!("docs/architecture.md: no reason for {row:?}")));
    violations
}

/// The table of floors names every module at the top of the library and nothing that is none, and no module may name one of a higher floor.
fn check_floor_table(architecture: &str, modules: &BTreeSet<String>, may_name: &[(&str, &[&str])]) -> Vec<String> {
    let mut floors: BTreeMap<&str, u32> = BTreeMap::new();
    let mut violations = Vec::new();
    for row in table(architecture, "| floor | modules | knows |") {
        let [_, floor, names, ..] = row[..] else { continue };
        // Rows without a number are of what stands beside the floors.
        let Some(number) = floor.split(' ').next().and_then(|number| number.parse().ok()) else { continue };
        for name in quoted(names).filter(|name| !name.contains('/')) {
            if floors.insert(name, number).is_some() {
                violations.push(format!("docs/architecture.md: {name} is on two floors"));
            }
        }
    }
    for name in modules.iter().filter(|name| !floors.contains_key(name.as_str())) {
        violations.push(format!("docs/architecture.md: the table of floors does not name {name}"));
    }
    for name in floors.keys().filter(|name| !modules.contains(**name)) {
        violations.push(format!("docs/architecture.md: the table of floors names {name}, which does not exist"));
    }
    let top = |path: &str| path.split(['/', ':']).next().unwrap_or("").trim_end_matches(".rs").to_owned();
    for (of, allowed) in may_name {
        let Some(own) = floors.get(top(of).as_str()) else { continue };
        for name in allowed.iter().filter(|name| floors.get(top(name).as_str()).is_some_and(|floor| floor > own)) {
            violations.push(format!("tests/it/tidy.rs: {of} may name {name}, which is on a higher floor"));
        }
    }
    violations
}

/// The files that the picture of a job's way names exist.
fn check_way(svg: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let named: Vec<&str> = svg.split("class=\"mono\">").skip(1).filter_map(|rest| rest.split('<').next()).collect();
    let gone = named.iter().filter(|file| !exists(file));
    let mut violations: Vec<String> = gone
        .map(|file| format!("{WAY}: src/{file} does not exist; say so in docs/pictures/draw.py and run it"))
        .collect();
    let count = named.iter().collect::<BTreeSet<_>>().len();
    if !element(svg, "title").contains(&format!(" {count} files")) {
        violations.push(format!("{WAY}: its title does not say that it names {count} files"));
    }
    violations
}

#[test]
fn the_first_page_is_short() {
    report(check_readme(&read_below_root(Path::new("README.md")).unwrap()));
    assert_eq!(check_readme(&"line\n".repeat(README_LINES_MAX)).len(), 0);
    assert_eq!(check_readme(&"line\n".repeat(README_LINES_MAX + 1)).len(), 1);
}

#[test]
fn pictures_can_be_read_by_everybody() {
    let mut shown = BTreeSet::new();
    for (page, text) in markdown() {
        for (instead, link) in pictures_of(&text).into_iter().filter(|(_, link)| !link.contains("://")) {
            assert!(!instead.trim().is_empty(), "{page}: {link}: nothing is said to those who do not see it");
            let path = root().join(&page).parent().unwrap().join(link);
            let path = path.canonicalize().unwrap_or_else(|_| panic!("{page}: the picture {link} does not exist"));
            shown.insert(relative(&path, &root().canonicalize().unwrap()));
        }
    }
    assert!(shown.len() >= 5, "only {shown:?} are shown");
    report(
        shown.iter().flat_map(|path| check_picture(path, &fs::read_to_string(root().join(path)).unwrap())).collect(),
    );
    let drawn = files_below(&root().join(PICTURES)).into_iter().map(|path| relative(&path, root()));
    report(
        drawn
            .filter(|path| path.ends_with(".svg") && !shown.contains(path))
            .map(|path| format!("{path}: no page shows it"))
            .collect(),
    );

    let good = "<svg a=\"b\"><title>T</title><desc>D</desc><style>@media(prefers-color-scheme:dark){}</style><a b=\"c>\"/>&lt;</svg>";
    let bad = |text: &str| check_picture("docs/pictures/a.svg", text).len();
    assert_eq!(bad(good), 0);
    assert_eq!(bad(&good.replace("<title>T</title>", "")), 1);
    assert_eq!(bad(&good.replace("<desc>D</desc>", "<desc> </desc>")), 1);
    assert_eq!(bad(&good.replace("dark", "light")), 1);
    assert_eq!(bad(&good.replace("&lt;", "&")), 1);
    assert_eq!(bad(&good.replace("&lt;", "<b>")), 1);
    assert_eq!(bad(&good.replace("&lt;", "</b>")), 1);
    assert_eq!(bad(&good.replace("&lt;", "<b c=d/>")), 1);
    assert_eq!(bad(&good.replace("&lt;", "<b c=\"d")), 1);
    assert_eq!(bad(&good.replace("&lt;", "<image href=\"https://example.org/x.png\"/>")), 2);
    assert_eq!(bad(&good.replace("</svg>", "</svg><svg/>")), 1);
    assert_eq!(bad(&good.replace("&lt;", &"a".repeat(PICTURE_LEN_MAX))), 1);
    assert_eq!(check_picture("docs/compare/a.svg", "<svg a=\"b\"></svg>").len(), 0);
    assert_eq!(check_picture("docs/compare/a.svg", "<svg a=\"b\">").len(), 1);
    assert_eq!(check_picture("docs/compare/a.svg", "a").len(), 2);
    assert_eq!(pictures_of("[a](b.md) a![b] ![c d](e.svg) [f](g.md)"), [("c d", "e.svg")]);
}

#[test]
fn the_architecture_names_the_files_with_unsafe_code() {
    let page = read_below_root(Path::new("docs/architecture.md")).unwrap();
    report(check_unsafe_table(&page, UNSAFE_FILES));
    let page = "| file | why |\n|---|---|\n| `a.rs` | because |\n| `b.rs` | so |\n\nText";
    assert_eq!(check_unsafe_table(page, &["b.rs", "a.rs"]).len(), 0);
    assert_eq!(check_unsafe_table(page, &["a.rs"]).len(), 1);
    assert_eq!(check_unsafe_table(page, &["a.rs", "b.rs", "c.rs"]).len(), 1);
    assert_eq!(check_unsafe_table(&page.replace("so", ""), &["a.rs", "b.rs"]).len(), 1);
    assert_eq!(check_unsafe_table(&page.replace("b.rs", "a.rs"), &["a.rs"]).len(), 1);
}

#[test]
fn the_architecture_names_every_module_on_its_floor() {
    let page = read_below_root(Path::new("docs/architecture.md")).unwrap();
    let modules: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".rs").to_owned())
        .filter(|name| name != "lib")
        .collect();
    assert!(modules.len() >= 12, "only {modules:?} were found");
    report(check_floor_table(&page, &modules, MAY_NAME));
    let page = "| floor | modules | knows |\n|---|---|---|\n| 0 words | `a`, `b` | `c` |\n| 1 top | `d` | all |\n| beside | `x` | |\n";
    let is = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(check_floor_table(page, &is(&["a", "b", "d"]), &[("d", &["a", "d"]), ("a", &["b"])]).len(), 0);
    assert_eq!(check_floor_table(page, &is(&["a", "b", "d", "e"]), &[]).len(), 1);
    assert_eq!(check_floor_table(page, &is(&["a", "d"]), &[]).len(), 1);
    assert_eq!(check_floor_table(page, &is(&["a", "b", "d"]), &[("a/x.rs", &["d::e"])]).len(), 1);
    assert_eq!(check_floor_table(&page.replace("`b`", "`d`"), &is(&["a", "d"]), &[]).len(), 1);
}

#[test]
fn the_way_of_a_job_names_files_that_exist() {
    let svg = read_below_root(Path::new(WAY)).unwrap();
    report(check_way(&svg, &|file| root().join("src").join(file).is_file()));
    let svg = "<title>x: 2 files</title><text class=\"mono\">a.rs</text><text class=\"mono\">b.rs</text><text class=\"mono\">a.rs</text>";
    assert_eq!(check_way(svg, &|_| true).len(), 0);
    assert_eq!(check_way(svg, &|file| file == "a.rs").len(), 1);
    assert_eq!(check_way(&svg.replace("2 files", "3 files"), &|_| true).len(), 1);
}

/// Files that a page names, below the root or below `src/`, and that do not exist.
fn check_named_files(page: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let is_file = |word: &&str| {
        let ends = [".rs", ".py", ".sh", ".toml", ".svg"].iter().any(|end| word.ends_with(end));
        ends && word.contains('/') && !word.contains([' ', '*', ':'])
    };
    let gone = quoted(text).filter(is_file).filter(|file| !exists(file) && !exists(&format!("src/{file}")));
    gone.map(|file| format!("{page}: `{file}` does not exist")).collect()
}

/// The table of checks has a row for each step of the script, and those that run by name only, and for nothing else.
fn check_steps(contributing: &str, script: &str) -> Vec<String> {
    let rows = table(contributing, "| step | what it finds | seconds |");
    let named: BTreeSet<&str> = rows.iter().filter_map(|row| quoted(row.get(1)?).next()).collect();
    let steps: BTreeSet<&str> =
        script.lines().filter_map(|line| line.strip_prefix("step_")?.split_once("()")).map(|(step, _)| step).collect();
    let wrong = steps.symmetric_difference(&named);
    wrong
        .map(|step| {
            format!("CONTRIBUTING.md: {step} is a row of the table of checks and no step, or the other way round")
        })
        .collect()
}

#[test]
fn the_files_that_pages_name_exist() {
    let exists = |file: &str| root().join(file).is_file();
    for page in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/guide.md"] {
        let text = read_below_root(Path::new(page)).unwrap();
        report(check_named_files(page, &text, &exists));
    }
    let bad = |text: &str| check_named_files("a.md", text, &|file| file == "src/a/b.rs").len();
    assert_eq!(bad("`a/b.rs`, `src/a/b.rs`, `cargo run x/y.rs`"), 0);
    assert_eq!(bad("`a/c.rs` and `docs/a.py`"), 2);
}

#[test]
fn every_check_is_explained() {
    let read = |path: &str| read_below_root(Path::new(path)).unwrap();
    report(check_steps(&read("CONTRIBUTING.md"), &read(".ci/run")));
    let page = "| step | what it finds | seconds |\n|---|---|---:|\n| `a` | x | 1 |\n| `b` | y | - |\n";
    assert_eq!(check_steps(page, "step_a() {\nstep_b() {\n").len(), 0);
    assert_eq!(check_steps(page, "step_a() {\n").len(), 1);
    assert_eq!(check_steps(page, "step_a() {\nstep_b() {\nstep_c() {\n").len(), 1);
}
