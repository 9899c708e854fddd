//! The words of the project: those of `docs/glossary.md` are used, and those that they replaced are gone.

use std::collections::BTreeSet;

use super::tidy::{read_below_root, report, sources};
use std::path::Path;

/// Words that identifiers must not contain any more, each with the term that replaced it. A word of several parts is one of all its parts
/// in a row, so that `sit_down` finds `sit_down` and `SitDown`. `Word::whole` is for words that are good parts of others.
const REPLACED: &[Word] = &[
    Word::part("belt", "watchdog interval"),
    Word::part("door", "invitation queue"),
    Word::part("keeper", "supervisor"),
    Word::part("trouble", "run error"),
    Word::whole("give_up", "poison").within("engine/"),
    Word::whole("Broken", "poisoned").within("engine/"),
    Word::part("quiet", "quiescent").within("engine/"),
    Word::part("rescue", "missed wakeup"),
    Word::part("rescues", "missed wakeups"),
    Word::part("crew", "thread pool"),
    Word::part("sit_down", "acquire_slot"),
    Word::part("stand_up", "release_slot"),
    Word::part("wear", "recycle policy"),
    Word::part("worn", "should_recycle"),
    Word::part("seat", "worker slot").within("engine/"),
    Word::part("seats", "worker slots").within("engine/"),
    Word::part("greet", "send_hello"),
    Word::part("bury", "on_worker_exit"),
    Word::part("linger", "exit grace"),
    Word::part("outside", "external worker").within("engine/"),
    Word::part("hall", "pending connections"),
    Word::part("arrival", "pending connection"),
    Word::part("arrivals", "pending connections"),
    Word::part("outsider", "external worker"),
    Word::part("outsiders", "external workers"),
    Word::part("remote", "child"),
    Word::part("mouth", "connection"),
    Word::whole("say", "send").within("engine/process/"),
    Word::whole("hear", "recv").within("engine/process/"),
    Word::whole("Bell", "supervisor notifier").within("engine/"),
    Word::part("summons", "supervisor request"),
    Word::part("ringer", "waker thread"),
    Word::part("books", "loan table"),
    Word::part("road", "endpoints"),
    Word::part("ledger", "job meta"),
    Word::part("look_again", "next_deadline_check").within("engine/"),
    Word::part("gather", "distributed rows").within("engine/"),
    Word::part("gathered", "distributed rows"),
    Word::whole("whole", "parent").within("engine/exec/"),
    Word::part("share", "partition").within("engine/"),
    Word::part("shares", "partitions").within("engine/"),
    Word::part("alone", "single partition").within("engine/"),
    Word::part("spread", "parallel call").within("engine/"),
    Word::part("children", "sub-jobs").within("engine/exec/"),
    Word::whole("serve", "complete").within("engine/schedule/"),
    Word::part("dispose", "drop_detached"),
    Word::part("hand_to_collector", "defer_to_supervisor"),
    Word::part("draft", "reservation"),
    Word::part("drafts", "reservations"),
    Word::whole("Space", "capacity waiters").within("engine/"),
    Word::part("lease", "engine_ref").within("engine/"),
    Word::whole("states", "worker locals").within("engine/"),
    Word::whole("meter", "progress").within("engine/"),
    Word::part("origin", "host process").within("engine/"),
    Word::part("bring_in", "fault in"),
    Word::part("passed_over", "skip count"),
    Word::whole("Call", "job builder"),
    Word::whole("Help", "wait policy"),
    Word::whole("Idle", "idle strategy"),
    Word::whole("OnFull", "backpressure"),
    Word::whole("Many", "row results"),
    Word::whole("Drained", "wait idle"),
    Word::whole("OutsideWorker", "external worker"),
    Word::whole("Stopper", "stop handle"),
    Word::whole("EngineSocket", "engine address"),
    Word::whole("divide_at", "into_split_at"),
    Word::whole("divide_every", "into_chunks"),
];

/// Words that are still in use and have a successor. A line moves up to [`REPLACED`] with the commit that takes its last use away; until
/// then its term may stand in the glossary without a use.
const TO_REPLACE: &[Word] = &[];

/// A word that identifiers shall not contain.
#[derive(Clone, Copy)]
struct Word {
    word: &'static str,
    is_whole: bool,
    /// The term that replaced it.
    term: &'static str,
    /// The folder below `src/` in which it was a term; all of it is the empty path.
    folder: &'static str,
}

impl Word {
    /// A word, and every identifier of which it is a part.
    const fn part(word: &'static str, term: &'static str) -> Self {
        Self { word, is_whole: false, term, folder: "" }
    }

    /// One identifier.
    const fn whole(word: &'static str, term: &'static str) -> Self {
        Self { word, is_whole: true, term, folder: "" }
    }

    const fn within(self, folder: &'static str) -> Self {
        Self { folder, ..self }
    }

    fn is_in(self, identifier: &str) -> bool {
        if self.is_whole {
            return identifier == self.word;
        }
        let (parts, word) = (parts(identifier), parts(self.word));
        parts.windows(word.len()).any(|window| window == word)
    }
}

/// The words that an identifier is made of, in lower case: `WorkerSlot` and `worker_slot` are `worker` and `slot`.
fn parts(identifier: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut before = '_';
    for character in identifier.chars() {
        let begins = before == '_' || (character.is_ascii_uppercase() && !before.is_ascii_uppercase());
        if character != '_' {
            if begins {
                parts.push(String::new());
            }
            parts.last_mut().expect("one was begun").push(character.to_ascii_lowercase());
        }
        before = character;
    }
    parts
}

/// The identifiers of blanked code.
fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = code.split(move |character| !is_word(character)).filter(|word| !word.is_empty());
    words.filter(|word| !word.starts_with(|first: char| first.is_ascii_digit()))
}

/// Identifiers of one file that contain a word of `words`.
fn check_words(path: &str, code: &str, words: &[Word]) -> Vec<String> {
    let used: BTreeSet<&str> = identifiers(code).collect();
    let applying = words.iter().filter(|word| path.starts_with(word.folder));
    applying
        .flat_map(|word| used.iter().filter(|used| word.is_in(used)).map(move |used| (used, word)))
        .map(|(used, word)| format!("{path}: `{used}` says \"{}\", which is now called {}", word.word, word.term))
        .collect()
}

/// The terms of the glossary in their order.
fn terms(glossary: &str) -> Vec<&str> {
    glossary.lines().filter_map(|line| line.strip_prefix("- **")?.split_once("**: ")).map(|(term, _)| term).collect()
}

/// A text as its words in lower case, each with a space before and behind it.
fn as_words(text: &str) -> String {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let parts: Vec<String> = words.flat_map(parts).collect();
    format!(" {} ", parts.join(" "))
}

/// Terms that are not in alphabetical order, stand twice, or occur neither in the sources nor among the words that are to come.
fn check_glossary(glossary: &str, sources: &str, to_come: &[Word]) -> Vec<String> {
    let mut violations = Vec::new();
    let terms = terms(glossary);
    for pair in terms.windows(2) {
        if pair[0].to_ascii_lowercase() >= pair[1].to_ascii_lowercase() {
            violations.push(format!("docs/glossary.md: \"{}\" must come before \"{}\"", pair[1], pair[0]));
        }
    }
    let sources = as_words(sources);
    for term in terms {
        let words = as_words(term);
        let is_used = sources.contains(&words) || sources.contains(&format!("{}s ", words.trim_end()));
        if !is_used && !to_come.iter().any(|word| as_words(word.term) == words) {
            violations.push(format!("docs/glossary.md: \"{term}\" does not occur in src"));
        }
    }
    violations
}

#[test]
fn the_terms_of_the_glossary_are_used_and_in_order() {
    let glossary = read_below_root(Path::new("docs/glossary.md")).unwrap();
    assert!(terms(&glossary).len() >= 100, "only {} terms were found", terms(&glossary).len());
    let entries = glossary.lines().filter(|line| line.starts_with("- ")).count();
    assert_eq!(entries, terms(&glossary).len(), "an entry is one line: `- **term**: what it is. *Source*`");
    let text: String = sources().iter().map(|source| format!("{}\n", source.text)).collect();
    report(check_glossary(&glossary, &text, TO_REPLACE));

    let good = "# G\n- **arena**: x.\n- **worker slot**: y.\n";
    let to_come = [Word::part("passed_over", "skip count")];
    let bad = |glossary: &str, sources: &str| check_glossary(glossary, sources, &to_come).len();
    assert_eq!(bad(good, "struct WorkerSlot; // arenas"), 0);
    assert_eq!(bad(good, "fn worker_slots() {} // the Arena"), 0);
    assert_eq!(bad(good, "struct Worker; let slot = arena;"), 1);
    assert_eq!(bad("- **b**: x.\n- **a**: y.\n", "a b"), 1);
    assert_eq!(bad("- **a**: x.\n- **a**: y.\n", "a"), 1);
    assert_eq!(bad("- **skip count**: x.\n", ""), 0, "it is to come");
}

#[test]
fn words_that_were_replaced_are_gone() {
    report(sources().iter().flat_map(|source| check_words(&source.path, &source.code, REPLACED)).collect());
    let bad = |path: &str, code: &str| check_words(path, code, REPLACED).len();
    assert_eq!(bad("os/a.rs", "struct Outsider; fn attach_outsider() {} let x: u8 = outsider;"), 3);
    assert_eq!(bad("engine/process/a.rs", "self.seat_count(SeatState::Taken)"), 2);
    assert_eq!(bad("arena/a.rs", "self.seat_count(theatre)"), 0, "it is a term in another folder");
    assert_eq!(bad("engine/process/a.rs", "fn say() { sayings(essay_say) }"), 1);
    assert_eq!(bad("a.rs", "struct Callback; enum Idleness {} let helpful = doorbell;"), 0);
    assert_eq!(parts("BELT_of2HTTPServer_x"), ["belt", "of2", "httpserver", "x"]);
}
