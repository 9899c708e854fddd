//! The life of a descriptor (`job.rs`).

use super::*;
use crate::layout::words::{FLAG_CANCEL, FLAG_DETACHED, FLAG_PORT, FLAG_WAITER, FLAG_WAKER};
use crate::lockfree::free_list::{FreeList, Returners};

/// What is owed after a finish, as `engine::core::Core::serve`, without ports.
fn serve(desk: &Desk, done: DescriptorWord) {
    if done.has(FLAG_WAITER) {
        job::notify_waiter(&desk.wait, Scope::Private);
    }
    if done.has(FLAG_WAKER) {
        let waker = desk.waker.lock().unwrap().take();
        if let Some(task) = waker {
            task.wake();
        }
    }
    if done.has(FLAG_DETACHED) {
        desk.extra.write();
        desk.output.read();
        desk.freed.add();
        job::retire(&desk.word, done);
    }
}

/// Runs a claimed job to its end, and does what is owed then.
fn finish_and_serve(desk: &Desk) {
    serve(desk, desk.finish());
}

/// R1/A1, R3/A3 and R5/A5: a job goes from its submitter to a worker and back, and its memory on to the next submitter.
#[test]
fn everything_a_job_uses_is_handed_on_with_its_word() {
    explore_reaching(
        Some(3),
        [
            "the worker runs the job",
            "the submitter reads its outcome",
            "the other submitter reuses the descriptor after that",
        ],
        move |seen| {
            let desk = Arc::new(Desk::new());
            let runner = thread::spawn({
                let (desk, ran) = (desk.clone(), seen[0].clone());
                move || {
                    if desk.claim(worker(1)) {
                        ran.mark();
                        desk.finish();
                    }
                }
            });
            let list = Arc::new(FreeList::full(1, Returners::Holders));
            let next = thread::spawn({
                let (desk, list, reused) = (desk.clone(), list.clone(), seen[2].clone());
                move || {
                    let Some(index) = list.pop() else { return };
                    let reserved = desk.fill().expect("who has the index has a free descriptor");
                    if reserved.generation() == 2 {
                        reused.mark();
                    }
                    job::abandon(&desk.word, reserved);
                    let _ = list.push(index);
                }
            });
            if let Some(index) = list.pop() {
                let reserved = desk.fill().expect("who has the index has a free descriptor");
                job::publish(&desk.word, reserved);
                if job::is_done(&desk.word) {
                    // On the strength of that answer alone.
                    desk.output.read();
                    desk.read_and_retire();
                    seen[1].mark();
                    let _ = list.push(index);
                }
            }
            runner.join().unwrap();
            next.join().unwrap();
        },
    );
}

/// Of two claimers one has the job, whatever flag the holder sets meanwhile.
#[test]
fn a_queued_job_is_claimed_once() {
    explore_reaching(None, ["the first worker claims", "the second worker claims"], move |seen| {
        let desk = Arc::new(Desk::new());
        desk.submit();
        let claimers = [1, 2].map(|number| {
            let desk = desk.clone();
            let seen = seen[usize::from(number) - 1].clone();
            thread::spawn(move || {
                if desk.claim(worker(number)) {
                    seen.mark();
                }
            })
        });
        assert_eq!(job::set_flag(&desk.word, FLAG_WAITER), FlagSet::Set);
        join(claimers);
        assert_eq!(desk.claimed.get(), 1);
        let running = job::snapshot(&desk.word);
        assert!(running.is(State::Running) && running.has(FLAG_WAITER));
    });
}

/// A claimer that came by an old entry looks at a descriptor in which one job follows another, of a kind that it must not run.
#[test]
fn a_job_of_a_kind_that_is_not_accepted_is_left_alone() {
    explore_reaching(None, ["the first job is claimed", "none is"], move |seen| {
        let desk = Arc::new(Desk::new());
        let kind = Arc::new(AtomicU32::new(0));
        // As when a descriptor is filled: before the word is published.
        let submit = |kind: &AtomicU32, what| {
            let reserved = desk.fill().expect("the descriptor is free");
            kind.store(what, Ordering::Relaxed);
            job::publish(&desk.word, reserved);
        };
        submit(&kind, 1);
        let picky = {
            let (desk, kind, seen) = (desk.clone(), kind.clone(), seen.clone());
            thread::spawn(move || match job::claim_if(&desk.word, worker(2), 0, || kind.load(Ordering::Relaxed) == 1) {
                Claim::Claimed(_) => {
                    assert_eq!(kind.load(Ordering::Relaxed), 1, "a job of the other kind was claimed");
                    seen[0].mark();
                }
                Claim::NotQueued => seen[1].mark(),
                Claim::Damaged(word) => panic!("{word:?}"),
            })
        };
        if desk.claim(worker(1)) {
            desk.finish();
            desk.read_and_retire();
            submit(&kind, 2);
        }
        picky.join().unwrap();
    });
}

/// A cancel ends a queued job or reaches a running one; the holder, asleep, hears of the end in each case.
#[test]
fn a_cancelled_job_ends_once_and_its_holder_wakes() {
    explore_reaching(
        Some(3),
        ["a queued job is ended", "a running job is asked", "the job is done before the cancel"],
        move |seen| {
            let desk = Arc::new(Desk::new());
            let generation = desk.submit().generation();
            let runner = beside(&desk, move |desk| {
                if desk.claim(worker(1)) {
                    finish_and_serve(&desk);
                }
            });
            let canceller = thread::spawn({
                let (desk, seen) = (desk.clone(), seen.clone());
                move || {
                    let cancel = job::request_cancel(&desk.word, generation);
                    match cancel {
                        Cancel::Ended(done) => {
                            seen[0].mark();
                            serve(&desk, done);
                        }
                        Cancel::Requested => seen[1].mark(),
                        Cancel::TooLate => seen[2].mark(),
                    }
                    cancel
                }
            });
            desk.sleep_until_done();
            let cancel = canceller.join().unwrap();
            let done = job::snapshot(&desk.word);
            assert_eq!(done.has(FLAG_CANCEL), cancel != Cancel::TooLate);
            runner.join().unwrap();
            assert_eq!(desk.claimed.get(), u32::from(!matches!(cancel, Cancel::Ended(_))));
            desk.read_and_retire();
        },
    );
}

/// A4 of a cancel: a canceller that ends a job nobody holds any more frees what the job works on.
#[test]
fn a_cancelled_job_that_nobody_holds_is_freed_by_one_side() {
    explore_reaching(None, ["the canceller frees", "the holder finds the job ended"], move |seen| {
        let desk = Arc::new(Desk::new());
        let canceller = thread::spawn({
            let (desk, by_canceller) = (desk.clone(), seen[0].clone());
            move || {
                // The generation of the first job.
                if let Cancel::Ended(done) = job::request_cancel(&desk.word, 1) {
                    if done.has(FLAG_DETACHED) {
                        desk.input.write();
                        by_canceller.mark();
                    }
                    serve(&desk, done);
                }
            }
        });
        assert_eq!(desk.submit().generation(), 1);
        desk.extra.write();
        if job::set_flag(&desk.word, FLAG_DETACHED) == FlagSet::AlreadyDone {
            desk.input.write();
            desk.extra.write();
            desk.read_and_retire();
            seen[1].mark();
        }
        canceller.join().unwrap();
        if desk.claim(HOLDER) {
            finish_and_serve(&desk);
        }
        assert_eq!(desk.freed.get(), 1);
    });
}

/// A submitter takes its job back, or a worker runs it and is not even told.
#[test]
fn a_job_is_taken_back_or_run() {
    explore_reaching(None, ["the job is taken back", "the job is run"], move |seen| {
        let desk = Arc::new(Desk::new());
        let generation = desk.submit().generation();
        let runner = beside(&desk, move |desk| desk.claim(worker(1)).then(|| desk.finish()));
        let taken_back = job::take_back(&desk.word, generation);
        if let Some(ended) = taken_back {
            assert!(ended.is(State::Done) && ended.has(FLAG_CANCEL));
            desk.input.write();
            desk.read_and_retire();
            seen[0].mark();
        }
        let finished = runner.join().unwrap();
        assert_eq!(finished.is_some(), taken_back.is_none());
        if let Some(done) = finished {
            assert!(!done.has(FLAG_CANCEL));
            seen[1].mark();
        }
        assert_eq!(job::take_back(&desk.word, generation), None);
    });
}

/// A cancel that names an earlier job of the descriptor leaves the later one alone.
#[test]
fn a_cancel_does_not_reach_the_next_generation() {
    explore_reaching(
        None,
        ["the first job is cancelled", "the cancel comes too late for the first job"],
        move |seen| {
            let desk = Arc::new(Desk::new());
            let generation = desk.submit().generation();
            let canceller = thread::spawn({
                let (desk, seen) = (desk.clone(), seen.clone());
                move || match job::request_cancel(&desk.word, generation) {
                    Cancel::Ended(_) => seen[0].mark(),
                    Cancel::Requested => {}
                    Cancel::TooLate => seen[1].mark(),
                }
            });
            if desk.claim(HOLDER) {
                desk.finish();
            }
            let done = job::snapshot(&desk.word);
            job::retire(&desk.word, done);
            desk.submit_claimed(HOLDER);
            assert!(!desk.finish().has(FLAG_CANCEL));
            canceller.join().unwrap();
        },
    );
}

/// R4/A4: of finisher and holder exactly one deals with a port, and the finisher that does knows which port.
#[test]
fn a_port_is_served_by_one_side() {
    explore_reaching(None, ["the finisher sees the flag", "the holder finds the job done"], move |seen| {
        let desk = Arc::new(Desk::new());
        desk.submit_claimed(worker(1));
        let runner = beside(&desk, move |desk| {
            let reports = desk.finish().has(FLAG_PORT);
            if reports {
                desk.extra.read();
            }
            reports
        });
        desk.extra.write();
        let set = job::set_flag(&desk.word, FLAG_PORT);
        if set == FlagSet::AlreadyDone {
            desk.output.read();
            seen[1].mark();
        } else {
            seen[0].mark();
        }
        assert_eq!(runner.join().unwrap(), set == FlagSet::Set);
    });
}

/// R4/A4 and R5: what a dropped job held is freed once, after the kernel's last use of it, and the memory can be reused.
#[test]
fn a_detached_job_is_freed_by_one_side() {
    explore_reaching(None, ["the finisher frees", "the holder frees"], move |seen| {
        let desk = Arc::new(Desk::new());
        desk.submit_claimed(worker(1));
        let runner = beside(&desk, |desk| finish_and_serve(desk));
        // As `front::job::Job::drop`.
        desk.extra.write();
        if !job::is_done(&desk.word) && job::set_flag(&desk.word, FLAG_DETACHED) == FlagSet::Set {
            seen[0].mark();
        } else {
            desk.extra.write();
            desk.read_and_retire();
            seen[1].mark();
        }
        until(|| desk.fill().is_some());
        desk.extra.write();
        assert_eq!(desk.freed.get(), 1);
        runner.join().unwrap();
    });
}

/// One poll, as `front::job::Job::poll`; `true` when the result was read.
fn poll(desk: &Desk, task: &Arc<Task>) -> bool {
    if !job::is_done(&desk.word) {
        *desk.waker.lock().unwrap() = Some(task.clone());
        if job::set_flag(&desk.word, FLAG_WAKER) == FlagSet::Set {
            return false;
        }
    }
    desk.read_and_retire();
    true
}

fn block_on(desk: &Desk, task: &Arc<Task>) {
    while !poll(desk, task) {
        task.sleep();
    }
}

/// The waker of the last poll is woken, although an earlier poll left another one.
#[test]
fn the_latest_waker_is_woken() {
    explore_reaching(None, ["both polls find the job unfinished", "the first poll finds the job done"], move |seen| {
        let desk = Arc::new(Desk::new());
        desk.submit_claimed(worker(1));
        let runner = beside(&desk, |desk| finish_and_serve(desk));
        if poll(&desk, &Task::new()) {
            seen[1].mark();
        } else {
            let task = Task::new();
            if !poll(&desk, &task) {
                seen[0].mark();
                task.sleep();
                assert!(poll(&desk, &task));
            }
        }
        runner.join().unwrap();
    });
}

/// The finisher of an earlier job may take the waker of the next one: the task is woken once too often, never too seldom.
#[test]
fn a_late_finisher_does_not_lose_the_next_jobs_waker() {
    explore(Some(4), || {
        let desk = Arc::new(Desk::new());
        let task = Task::new();
        let mut runners = Vec::new();
        for number in [1, 2] {
            desk.submit_claimed(worker(number));
            runners.push(beside(&desk, |desk| finish_and_serve(desk)));
            block_on(&desk, &task);
        }
        join(runners);
        assert_eq!(desk.freed.get(), 2);
    });
}

/// R8/A8: the holder of a job, asleep or about to be, hears of its end.
#[test]
fn a_sleeping_holder_is_woken() {
    explore(None, || {
        let desk = Arc::new(Desk::new());
        desk.submit_claimed(worker(1));
        let runner = beside(&desk, |desk| finish_and_serve(desk));
        desk.sleep_until_done();
        desk.read_and_retire();
        runner.join().unwrap();
    });
}

/// A notification that belongs to an earlier job of the descriptor costs the next holder a look, not its wake-up.
#[test]
fn a_late_notification_does_not_lose_the_next_one() {
    explore(Some(3), || {
        let desk = Arc::new(Desk::new());
        let mut runners = Vec::new();
        for number in [1, 2] {
            desk.submit_claimed(worker(number));
            runners.push(beside(&desk, |desk| finish_and_serve(desk)));
            desk.sleep_until_done();
            desk.read_and_retire();
        }
        join(runners);
    });
}

/// A holder whose sleep timed out, or ended for no reason, sleeps again without losing the wake-up, or lets go of the job.
#[test]
fn a_holder_that_gave_up_can_come_back_or_let_go() {
    let (gave_up, freed_late) = (Seen::default(), Seen::default());
    let seen = (gave_up.clone(), freed_late.clone());
    for comes_back in [true, false] {
        let seen = seen.clone();
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            desk.submit_claimed(worker(1));
            let runner = beside(&desk, |desk| finish_and_serve(desk));
            let in_time = job::sleep_until_done(&desk.word, &desk.wait, |_| false);
            if !in_time {
                seen.0.mark();
            }
            if in_time || comes_back {
                desk.sleep_until_done();
                desk.read_and_retire();
            } else {
                desk.extra.write();
                if job::set_flag(&desk.word, FLAG_DETACHED) == FlagSet::AlreadyDone {
                    desk.read_and_retire();
                } else {
                    seen.1.mark();
                }
            }
            runner.join().unwrap();
            assert_eq!(desk.freed.get(), 1);
        });
    }
    gave_up.expect("the first sleep times out");
    freed_late.expect("the finisher frees what the holder let go of");
}

/// The holder and a worker that found the job's entry in the ring: one of them runs it.
#[test]
fn a_helping_holder_claims_its_own_job_or_nothing() {
    explore_reaching(None, ["the holder runs its job", "a worker runs the job"], move |seen| {
        let desk = Arc::new(Desk::new());
        let generation = desk.submit().generation();
        let runner = beside(&desk, move |desk| {
            if desk.claim(worker(1)) {
                finish_and_serve(&desk);
            }
        });
        match job::claim_generation(&desk.word, generation, HOLDER, 0) {
            Claim::Claimed(_) => {
                desk.claimed.add();
                desk.input.read();
                desk.finish();
                seen[0].mark();
            }
            Claim::Damaged(word) => panic!("{word:?}"),
            Claim::NotQueued => {
                desk.sleep_until_done();
                seen[1].mark();
            }
        }
        assert_eq!(desk.claimed.get(), 1);
        desk.read_and_retire();
        runner.join().unwrap();
        // The descriptor's next job is not this one.
        desk.submit();
        assert_eq!(job::claim_generation(&desk.word, generation, HOLDER, 0), Claim::NotQueued);
    });
}
