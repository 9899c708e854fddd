//! Sleeping and waking of workers (`docs/protocol.md`, "Wake protocol").
//!
//! Vocabulary. A worker is *running* a job; *searching*: awake, without a job, and certain to look at the rings once more
//! before it sleeps; *parked*: asleep or about to be; *notified*: a waker took it from parked, it will search next.
//!
//! The rule: **wake only when nobody is searching or notified**, because a worker that is will find the job; and a worker that
//! stops searching because it found a job looks whether more is left, and wakes another one then (`found_job`).
//!
//! The race is a submitter that sees a searcher against a searcher that gives up, or finds something else:
//!
//! ```text
//! submitter                         worker
//!   push to a ring                    clear its searching bit (and, to sleep, set park word and idle bit)
//!   fence(SeqCst)          F1         fence(SeqCst)          F2
//!   read searching, idle, park        read the rings
//! ```
//!
//! The fences are totally ordered. If F1 comes first, the worker sees the push and takes it, or wakes somebody. If F2 comes
//! first, the submitter sees no searcher there, and the worker as parked: it wakes it. Without either fence both may read the
//! old state and the job would wait for the next submit.

use crate::fault::{self, Point};
use crate::ids::ParticipantSlot;
use crate::layout::records::{IdleLine, MAX_PARTICIPANTS, PARTICIPANT_WORDS};
use crate::layout::words::park;
use crate::sync::{AtomicU32, AtomicU64, Ordering, Scope, fence, fence_after_exchange};

use super::futex;

/// The sleeping arrangements of one engine. `park_word` finds the park word of a worker.
///
/// The words of the bitmaps have more bits than an engine has workers. Only those of rows that can have a worker count: one that a fault of
/// the memory set anywhere else would be a searcher that never finds anything, and never takes its bit back.
#[derive(Clone, Copy)]
pub(crate) struct Sleepers<'a, P> {
    line: &'a IdleLine,
    /// The last row that can have a worker; the first one is 1, as row 0 is that of the process that submits.
    last: u16,
    scope: Scope,
    park_word: P,
}

#[inline]
fn bit_of(slot: ParticipantSlot) -> (usize, u64) {
    (usize::from(slot.get()) % MAX_PARTICIPANTS / 64, 1 << (slot.get() % 64))
}

/// The bits of word `at` that are of rows `1..=last`.
#[inline]
fn mask_of(at: usize, last: u16) -> u64 {
    let rows = if at == usize::from(last) / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
    // Row 0 is no worker's.
    if at == 0 { rows & !1 } else { rows }
}

/// The bits of the rows `1..=last`, word by word; the words behind them are not read.
#[inline]
fn rows_of(bits: &[AtomicU64; PARTICIPANT_WORDS], last: u16) -> impl Iterator<Item = u64> {
    let words = usize::from(last) / 64 + 1;
    bits.iter().enumerate().take(words).map(move |(at, word)| word.load(Ordering::Relaxed) & mask_of(at, last))
}

/// Whether a bit of the rows `1..=last` is set.
#[inline]
fn is_any(bits: &[AtomicU64; PARTICIPANT_WORDS], last: u16) -> bool {
    if last < 64 {
        // Most engines have no more.
        return bits[0].load(Ordering::Relaxed) & mask_of(0, last) != 0;
    }
    rows_of(bits, last).any(|rows| rows != 0)
}

fn count(bits: &[AtomicU64; PARTICIPANT_WORDS], last: u16) -> u32 {
    rows_of(bits, last).map(u64::count_ones).sum()
}

impl<'a, P: Fn(ParticipantSlot) -> Option<&'a AtomicU32>> Sleepers<'a, P> {
    /// A view of the sleeping arrangements of an engine whose workers have the rows `1..=last`.
    #[inline]
    pub(crate) fn new(line: &'a IdleLine, last: u16, scope: Scope, park_word: P) -> Self {
        Self { line, last: last.min(MAX_PARTICIPANTS as u16 - 1), scope, park_word }
    }

    /// Running to searching. Returns how many others search already.
    #[inline]
    pub(crate) fn start_searching(&self, me: ParticipantSlot) -> u32 {
        let (word, bit) = bit_of(me);
        // Relaxed: a submitter that sees the bit relies only on what this worker does after clearing it (F2).
        self.line.searching[word].fetch_or(bit, Ordering::Relaxed);
        count(&self.line.searching, self.last).saturating_sub(1)
    }

    /// Searching to running: the worker has a job. The caller then looks at the rings and, if an entry is left, calls
    /// [`Sleepers::notify`] (its own fence serves as F1): that keeps the promise its searching bit made.
    #[inline]
    pub(crate) fn found_job(&self, me: ParticipantSlot) {
        let (word, bit) = bit_of(me);
        self.line.searching[word].fetch_and(!bit, Ordering::Relaxed);
        // SeqCst fence F2, see the head of this file.
        fence_after_exchange();
    }

    /// Searching to parked, not asleep yet. The caller looks at the rings and at the engine's state once more and then either
    /// calls [`Sleepers::sleep`] or [`Sleepers::resume`].
    pub(crate) fn prepare_to_park(&self, me: ParticipantSlot) {
        let (word, bit) = bit_of(me);
        if let Some(park_word) = (self.park_word)(me) {
            // Relaxed would do here and in the next two: the fence orders them before the check of the rings. Release for onlookers:
            // a thread that sees this worker parked sees all its jobs finished.
            park_word.store(park::PARKED, Ordering::Release);
            fault::point(Point::F12_parked);
        }
        self.line.idle[word].fetch_or(bit, Ordering::Relaxed);
        self.line.searching[word].fetch_and(!bit, Ordering::Relaxed);
        // SeqCst fence F2, see the head of this file.
        fence(Ordering::SeqCst);
    }

    /// Sleeps until notified; may return for no reason. `sleep` sleeps while the word holds [`park::PARKED`].
    pub(crate) fn sleep<R>(&self, me: ParticipantSlot, sleep: impl FnOnce(&AtomicU32) -> R) -> Option<R> {
        (self.park_word)(me).map(sleep)
    }

    /// A slow step of a search: `sleep` sleeps for a bounded time while the word holds [`park::RUNNING`]. The worker counts as
    /// searching all the while, and no waker of single workers takes it for a sleeper; only
    /// [`Sleepers::wake_everybody`] wakes it early.
    pub(crate) fn doze(&self, me: ParticipantSlot, sleep: impl FnOnce(&AtomicU32)) {
        if let Some(park_word) = (self.park_word)(me) {
            sleep(park_word);
        }
    }

    /// Parked or notified to searching.
    pub(crate) fn resume(&self, me: ParticipantSlot) {
        let (word, bit) = bit_of(me);
        // The searching bit is set before the others are cleared: at no moment does a submitter find the worker neither
        // notified nor searching. Release: a thread that sees the cleared idle bit or park word sees the searching bit.
        self.line.searching[word].fetch_or(bit, Ordering::Relaxed);
        if let Some(park_word) = (self.park_word)(me) {
            park_word.store(park::RUNNING, Ordering::Release);
        }
        self.line.idle[word].fetch_and(!bit, Ordering::Release);
    }

    /// Searching to gone: the worker ends.
    pub(crate) fn retire(&self, me: ParticipantSlot) {
        self.found_job(me);
    }

    /// Sees to it that `wanted` workers will look at the rings, waking as many as are missing. Makes no system call when
    /// enough are awake. Returns the number of system calls made.
    ///
    /// Call it after the push that the workers are to find, with a SeqCst fence (F1) in between.
    #[inline]
    pub(crate) fn notify(&self, wanted: u32) -> u32 {
        // The usual cases first: nobody sleeps, or somebody is awake. In this order, as the line of searchers changes all the time.
        if !is_any(&self.line.idle, self.last) || (wanted <= 1 && is_any(&self.line.searching, self.last)) {
            return 0;
        }
        self.wake_some(wanted, self.last)
    }

    /// How many workers look for work, awake. A hint.
    pub(crate) fn searching(&self) -> u32 {
        count(&self.line.searching, self.last)
    }

    /// Whether a worker looks for work, or sleeps and can be woken. A hint.
    pub(crate) fn is_anybody_free(&self) -> bool {
        is_any(&self.line.searching, self.last) || (is_any(&self.line.idle, self.last) && self.is_anybody_asleep())
    }

    /// Whether the park word of a worker says that it sleeps, or is about to, whatever the bitmaps say. A hint.
    pub(crate) fn is_anybody_asleep(&self) -> bool {
        let word = |row| (self.park_word)(ParticipantSlot::new(row));
        // Acquire: a thread that sees a worker asleep sees what it did before.
        (1..=self.last).filter_map(word).any(|word| park::may_sleep(word.load(Ordering::Acquire)))
    }

    /// As [`Sleepers::notify`], but only of the workers `1..=last`.
    pub(crate) fn notify_first(&self, wanted: u32, last: u16) -> u32 {
        self.wake_some(wanted.min(u32::from(last)), last.min(self.last))
    }

    /// Wakes workers of the rows up to `last` until `wanted` of them are looking.
    #[cold]
    fn wake_some(&self, wanted: u32, last: u16) -> u32 {
        let mut looking = count(&self.line.searching, last);
        let mut calls = 0;
        for (word_at, mut bits) in rows_of(&self.line.idle, last).enumerate() {
            if looking >= wanted {
                break;
            }
            while bits != 0 && looking < wanted {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let slot = ParticipantSlot::new((word_at as u16) * 64 + bit as u16);
                let Some(park_word) = (self.park_word)(slot) else { continue };
                calls += self.wake(park_word, &mut looking);
            }
        }
        calls
    }

    fn wake(&self, park_word: &AtomicU32, looking: &mut u32) -> u32 {
        // Acquire: a worker seen as running has its searching bit set before; the count may miss it, which costs a wake-up
        // of another one at most.
        match park_word.load(Ordering::Acquire) {
            park::RUNNING => 0,
            park::PENDING => {
                // The waker that set it may be stopped before its call: make it again.
                futex::wake_all(park_word, self.scope);
                *looking += 1;
                1
            }
            park::NOTIFIED => {
                *looking += 1;
                0
            }
            // Parked, or what nobody writes: then a bit of it was flipped, and the worker may sleep on it.
            parked => {
                // Relaxed: exactly one waker wins; the job it wakes for was pushed before F1, and the woken worker's own
                // fence or the kernel's wake orders the rest.
                let taken = park_word.compare_exchange(parked, park::PENDING, Ordering::Relaxed, Ordering::Relaxed);
                if taken.is_err() {
                    return 0;
                }
                fault::point(Point::F10_pending);
                futex::wake_all(park_word, self.scope);
                fault::point(Point::F11_called);
                // Only after the call may others rely on it. If the worker is already running this fails, which is fine.
                let _ = park_word.compare_exchange(park::PENDING, park::NOTIFIED, Ordering::Relaxed, Ordering::Relaxed);
                *looking += 1;
                1
            }
        }
    }

    /// Clears what a dead worker left here: nobody counts on it any more. The caller then wakes everybody, because a waker may
    /// have counted on it before, or handed it a wake-up that died with it.
    pub(crate) fn forget(&self, dead: ParticipantSlot) {
        let (word, bit) = bit_of(dead);
        // Relaxed: the fence in `wake_everybody` follows. No other participant writes these while the row has no worker, except
        // for a waker that read the park word before: its exchange then hits a word that means nobody.
        self.line.searching[word].fetch_and(!bit, Ordering::Relaxed);
        self.line.idle[word].fetch_and(!bit, Ordering::Relaxed);
        if let Some(park_word) = (self.park_word)(dead) {
            park_word.store(park::RUNNING, Ordering::Relaxed);
        }
    }

    /// Has every worker that may sleep look at the rings, whatever the words say, which may be wrong: none counts as searching any more,
    /// and every sleeper is called.
    pub(crate) fn rouse(&self, slots: impl Iterator<Item = ParticipantSlot>) {
        self.forget_searchers();
        self.wake_everybody(slots);
    }

    /// Lets nobody count as searching: for the thread that finds that a job was left lying though workers sleep, for whatever reason. A bit of a
    /// row whose worker is at a long job, or that has none just now, would stay set and hold back every call.
    pub(crate) fn forget_searchers(&self) {
        // Relaxed: a worker that does search loses its bit, so that the next submitter wakes another one: that costs a call.
        self.line.searching.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Wakes everybody, for shutdown: a thread that sleeps or is about to looks at the engine's state again.
    pub(crate) fn wake_everybody(&self, slots: impl Iterator<Item = ParticipantSlot>) {
        fence(Ordering::SeqCst);
        for slot in slots {
            if let Some(park_word) = (self.park_word)(slot) {
                let _ = park_word.compare_exchange(park::PARKED, park::PENDING, Ordering::Relaxed, Ordering::Relaxed);
                // Also on a word that says something else: a bit of it may have been flipped.
                futex::wake_all(park_word, self.scope);
            }
        }
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;

    /// An engine's words, and the workers' loop one step at a time.
    struct Words {
        line: IdleLine,
        park: [AtomicU32; ROWS + 1],
    }

    /// Workers; the row before theirs is that of the process that submits.
    const ROWS: usize = 3;

    impl Words {
        /// Two workers that sleep, and one that runs a job.
        fn new() -> Self {
            let words = Self { line: IdleLine::new(), park: core::array::from_fn(|_| AtomicU32::new(park::RUNNING)) };
            words.sleepers().prepare_to_park(ParticipantSlot::new(1));
            words.sleepers().prepare_to_park(ParticipantSlot::new(2));
            words
        }

        fn sleepers<'s>(&'s self) -> Sleepers<'s, impl Fn(ParticipantSlot) -> Option<&'s AtomicU32> + use<'s>> {
            Sleepers::new(&self.line, ROWS as u16, Scope::Private, |slot| self.park.get(usize::from(slot.get())))
        }

        fn is_called(&self) -> bool {
            self.park[1..].iter().any(|word| word.load(Ordering::Relaxed) == park::NOTIFIED)
        }
    }

    /// A bit of a row that has no worker made every submitter believe that somebody searches, and was never taken back: each job then
    /// waited for the bound of a worker's sleep.
    #[test]
    fn a_flipped_bit_holds_back_no_second_call() {
        let bits = 64 * PARTICIPANT_WORDS;
        for bit in 0..2 * bits {
            let words = Words::new();
            let (map, row) = if bit < bits { (&words.line.idle, bit) } else { (&words.line.searching, bit - bits) };
            let word = &map[row / 64];
            word.store(word.load(Ordering::Relaxed) ^ 1 << (row % 64), Ordering::Relaxed);
            let exists = (1..=ROWS).contains(&row);
            words.sleepers().notify(1);
            assert!(words.is_called() || exists, "bit {bit} stands for nobody");
            assert!(words.sleepers().is_anybody_free());
            if !words.is_called() {
                // Such a bit looks like a searcher's, except to a thread that finds the job left lying.
                words.sleepers().rouse(core::iter::empty());
                words.sleepers().notify(1);
                assert!(words.is_called(), "bit {bit} is forgotten");
            }
        }
        let all_run = Words::new();
        for row in 1..=2 {
            all_run.sleepers().resume(ParticipantSlot::new(row));
            all_run.sleepers().found_job(ParticipantSlot::new(row));
        }
        assert!(!all_run.sleepers().is_anybody_free());
        for row in (0..bits).filter(|row| !(1..=ROWS).contains(row)) {
            all_run.line.searching[row / 64].fetch_or(1 << (row % 64), Ordering::Relaxed);
            all_run.line.idle[row / 64].fetch_or(1 << (row % 64), Ordering::Relaxed);
        }
        assert!(!all_run.sleepers().is_anybody_free(), "no bit of a row without a worker counts");
    }

    /// A flipped bit must not make "asleep" mean "awake", or "was called already".
    #[test]
    fn a_worker_is_called_whatever_bit_of_its_park_word_flips() {
        for bit in 0..32 {
            let words = Words::new();
            words.park[1].store(park::PARKED ^ 1 << bit, Ordering::Relaxed);
            assert_eq!(words.sleepers().notify(1), 1);
            assert_eq!(words.park[1].load(Ordering::Relaxed), park::NOTIFIED, "bit {bit}");
            words.sleepers().resume(ParticipantSlot::new(1));
            assert_eq!(words.park[1].load(Ordering::Relaxed), park::RUNNING);
        }
    }
}
