//! Two words in shared memory and nothing around them: what a hand-over costs at least.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::thread;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;

use crate::pace::Pace;
use crate::peer::{self, Peer};
use crate::place::Pair;

/// How a thread waits for a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// Never sleeps.
    Spin,
    /// Looks a thousand times, then sleeps; the other side makes a wake-up call every time.
    SpinThenSleep,
    /// The same, and calls the other only if it said that it sleeps.
    SpinThenAnnounce,
    /// Sleeps at once.
    Sleep,
}

const LOOKS: u32 = 1000;
/// Ends the answering side.
const STOP: u32 = u32::MAX;
const SIZE: usize = 4096;
/// Where the answer lies: on lines of its own.
const ANSWER: usize = 128;
/// Where a side writes that it sleeps: it is woken only then.
const SLEEPERS: usize = 256;

/// A page with the words, private or shared.
pub struct Words {
    page: NonNull<u8>,
    flags: futex::Flags,
    file: Option<File>,
}

// SAFETY: the page is used through atomics only, and unmapped when nobody holds the words any more.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Words for threads of this process.
    pub fn private() -> Self {
        // SAFETY: a new mapping takes nobody's memory.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let page = NonNull::new(page.expect("a page").cast()).expect("no page lies at zero");
        Self { page, flags: futex::Flags::PRIVATE, file: None }
    }

    /// Words for this process and the one that opens [`Words::path`].
    pub fn shared() -> Self {
        let file = File::from(rustix::fs::memfd_create("words", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(SIZE as u64).expect("a page");
        Self::of(file)
    }

    pub fn open(path: &str) -> Self {
        Self::of(File::options().read(true).write(true).open(path).expect("the file of the words"))
    }

    fn of(file: File) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping takes nobody's memory.
        let page =
            unsafe { rustix::mm::mmap(core::ptr::null_mut(), SIZE, protection, MapFlags::SHARED, file.as_fd(), 0) };
        let page = NonNull::new(page.expect("a page").cast()).expect("no page lies at zero");
        Self { page, flags: futex::Flags::empty(), file: Some(file) }
    }

    /// Where another process of this user finds shared words while they live.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        let file = self.file.as_ref().expect("only shared words have a path");
        format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the page is longer than every offset used here plus four, zeroed, aligned, and mapped as long as `self` lives; all
        // access to it, in every process, is atomic.
        unsafe { AtomicU32::from_ptr(self.page.as_ptr().add(offset).cast()) }
    }

    fn wait(&self, offset: usize, seen: u32, waiting: Waiting) {
        let word = self.word(offset);
        let looks = match waiting {
            Waiting::Spin => return spin_loop(),
            Waiting::SpinThenSleep | Waiting::SpinThenAnnounce => LOOKS,
            Waiting::Sleep => 0,
        };
        for _ in 0..looks {
            // Acquire: pairs with the release in `set`, as everywhere here.
            if word.load(Ordering::Acquire) != seen {
                return;
            }
            spin_loop();
        }
        let sleeper = self.word(SLEEPERS + offset);
        sleeper.store(1, Ordering::SeqCst);
        // The kernel compares after it has announced the sleeper itself, so no wake-up is lost: `set` looks after it stores.
        if word.load(Ordering::SeqCst) == seen {
            let _ = futex::wait(word, self.flags, seen, None);
        }
        sleeper.store(0, Ordering::Relaxed);
    }

    fn set(&self, offset: usize, value: u32, waiting: Waiting) {
        match waiting {
            Waiting::Spin => self.word(offset).store(value, Ordering::Release),
            Waiting::SpinThenSleep | Waiting::SpinThenAnnounce | Waiting::Sleep => {
                self.word(offset).store(value, Ordering::SeqCst);
                if waiting != Waiting::SpinThenAnnounce || self.word(SLEEPERS + offset).load(Ordering::SeqCst) == 1 {
                    let _ = futex::wake(self.word(offset), self.flags, 1);
                }
            }
        }
    }

    /// Answers every number with the next one until it is told to stop.
    pub fn answer(&self, waiting: Waiting) {
        let mut seen = 0;
        loop {
            match self.word(0).load(Ordering::Acquire) {
                STOP => return,
                same if same == seen => self.wait(0, seen, waiting),
                next => {
                    seen = next;
                    self.set(ANSWER, seen, waiting);
                }
            }
        }
    }

    fn ask(&self, number: u64, waiting: Waiting) -> u64 {
        let next = number as u32 + 1;
        self.set(0, next, waiting);
        while self.word(ANSWER).load(Ordering::Acquire) != next {
            self.wait(ANSWER, next - 1, waiting);
        }
        u64::from(next)
    }

    fn stop(&self) {
        self.set(0, STOP, Waiting::Sleep);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: no reference into the page outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), SIZE) };
    }
}

/// Nanoseconds there and back between two threads.
pub fn between_threads(pair: Pair, pace: Pace, waiting: Waiting) -> f64 {
    let words = Words::private();
    thread::scope(|scope| {
        scope.spawn(|| {
            pair.pin_worker();
            words.answer(waiting);
        });
        let nanoseconds = pace.measure(pair, |number| words.ask(number, waiting));
        words.stop();
        nanoseconds
    })
}

/// Nanoseconds there and back between two processes.
pub fn between_processes(pair: Pair, pace: Pace, waiting: Waiting) -> f64 {
    let words = Words::shared();
    let how = match waiting {
        Waiting::Spin => "spin",
        Waiting::SpinThenSleep => "spin_then_sleep",
        Waiting::SpinThenAnnounce => "spin_then_announce",
        Waiting::Sleep => "sleep",
    };
    let peer = Peer::start("words", pair, &[&words.path(), how]);
    let nanoseconds = pace.measure(pair, |number| words.ask(number, waiting));
    words.stop();
    peer.join();
    nanoseconds
}

/// The other process.
pub fn play(arguments: &[String]) {
    let waiting = match arguments[1].as_str() {
        "spin" => Waiting::Spin,
        "spin_then_sleep" => Waiting::SpinThenSleep,
        "spin_then_announce" => Waiting::SpinThenAnnounce,
        _ => Waiting::Sleep,
    };
    let words = Words::open(&arguments[0]);
    peer::is_ready();
    words.answer(waiting);
}
