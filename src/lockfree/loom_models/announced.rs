//! Announcements of threads, by which what was handed over comes back from an engine that broke (`announcement.rs`).

use super::*;
use crate::lockfree::announcement::{NOTHING, announce, before_asking, is_at, may_claim, take_back};
use crate::sync::fence;

const INDEX: DescriptorIndex = DescriptorIndex::new(0);

struct Scene {
    desk: Desk,
    thread: AtomicU32,
    broken: AtomicU32,
}

/// What one side leaves out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Omit {
    Nothing,
    ThreadsFence,
    AskersFence,
}

impl Scene {
    fn new() -> Arc<Self> {
        let scene = Self { desk: Desk::new(), thread: AtomicU32::new(NOTHING), broken: AtomicU32::new(0) };
        scene.desk.submit();
        Arc::new(scene)
    }

    /// Claims the job and runs it; whether it did.
    fn run(&self) -> bool {
        let is_claimed = matches!(job::claim(&self.desk.word, worker(1), 0), Claim::Claimed(_));
        if is_claimed {
            self.desk.output.write();
            // Its word may have been damaged meanwhile.
            let _ = job::finish(&self.desk.word, false);
        }
        is_claimed
    }

    /// Takes what the job works on when nobody is at it.
    fn take_memory(&self) {
        until(|| !is_at(&self.thread, INDEX));
        self.desk.output.write();
    }
}

/// A word that another process may write says that the job can be claimed, for as long as it likes.
fn break_off(omit: Omit, ran: Option<Seen>, left_alone: Option<Seen>) {
    explore(None, move || {
        let scene = Scene::new();
        let thread = thread::spawn({
            let (scene, ran, left_alone) = (scene.clone(), ran.clone(), left_alone.clone());
            move || {
                announce(&scene.thread, INDEX);
                let is_poisoned = || scene.broken.load(Ordering::Relaxed) == 1;
                let may = if omit == Omit::ThreadsFence { !is_poisoned() } else { may_claim(is_poisoned) };
                let seen = if may && scene.run() { ran } else { left_alone };
                seen.iter().for_each(Seen::mark);
                take_back(&scene.thread);
            }
        });
        scene.broken.store(1, Ordering::Relaxed);
        if omit != Omit::AskersFence {
            before_asking();
        }
        scene.take_memory();
        thread.join().unwrap();
    });
}

#[test]
fn nothing_comes_back_while_a_thread_is_at_it() {
    let (ran, left_alone) = (Seen::default(), Seen::default());
    break_off(Omit::Nothing, Some(ran.clone()), Some(left_alone.clone()));
    ran.expect("the thread runs the job");
    left_alone.expect("the thread leaves the job alone");
}

#[test]
#[should_panic]
fn a_thread_without_its_fence_writes_what_came_back() {
    break_off(Omit::ThreadsFence, None, None);
}

#[test]
#[should_panic]
fn an_asker_without_its_fence_takes_what_is_written() {
    break_off(Omit::AskersFence, None, None);
}

/// Without fences: the word is damaged, which no claim follows.
#[test]
fn damage_is_seen_with_the_announcement_of_whoever_claimed_before() {
    explore_reaching(None, ["the job was claimed before the damage", "the damage came first"], move |seen| {
        let scene = Scene::new();
        let thread = thread::spawn({
            let (scene, seen) = (scene.clone(), seen.clone());
            move || {
                announce(&scene.thread, INDEX);
                let outcome = if scene.run() { &seen[0] } else { &seen[1] };
                outcome.mark();
                take_back(&scene.thread);
            }
        });
        // One bit of the generation, which no participant sets here.
        let damaged = scene.desk.word.fetch_or(1 << 60, Ordering::Relaxed);
        assert_eq!(damaged & 1 << 60, 0);
        assert!(job::snapshot(&scene.desk.word).state().is_none());
        scene.take_memory();
        thread.join().unwrap();
        fence(Ordering::SeqCst);
        assert!(job::snapshot(&scene.desk.word).state().is_none(), "damage stays where it is");
    });
}
