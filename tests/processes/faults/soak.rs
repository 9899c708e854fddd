//! Worker processes that are killed at random for as long as one likes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use workring::Engine;

use super::deaths;
use super::load::Load;
use crate::support::{Checked, eventually, kill, start_role};

/// Kills of the soak unless `WORKRING_KILLS` says another number.
pub(super) const KILLS: u32 = 50;

/// Kills from outside, at random moments, in a process of its own, which nothing else disturbs.
pub(super) fn soak() {
    let output = start_role("soak").wait_with_output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{} {said} {complaint}", output.status);
}

/// How many kills the soak makes.
pub(crate) fn kills_wanted() -> u32 {
    super::wanted("WORKRING_KILLS", KILLS)
}

pub(super) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process, zombies among them.
pub(super) fn children() -> usize {
    let me = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&*me)).count()
}

/// The role of the soak.
pub(crate) fn be_a_soak() {
    let before = (open_descriptors(), children());
    let started = Instant::now();
    let (mut killed, mut failed, mut rounds) = (0, 0, 0);
    {
        let engine = Checked::with(2, |builder| builder.capacity(1 << 26).queue_capacity(64));
        let load = Load::new(&engine);
        let enough = AtomicBool::new(false);
        thread::scope(|scope| {
            let killer = scope.spawn(|| {
                kill_at_random(&engine);
                enough.store(true, Ordering::Relaxed);
            });
            while !enough.load(Ordering::Relaxed) {
                failed += load.round(&engine);
                rounds += 1;
            }
            killer.join().unwrap();
        });
        eventually("both workers are there", || engine.pids().len() == 2);
        killed += deaths(&engine);
        assert_eq!(load.round(&engine), 0, "jobs failed though nobody died");
        assert!(failed <= killed, "{failed} jobs failed of {killed} deaths");
        drop(load);
        eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    }
    // The supervisor's thread, which has the last share in the engine, may end a little after the call that closes it.
    eventually("no descriptor and no child is left", || (open_descriptors(), children()) == before);
    println!("{killed} deaths, {failed} jobs failed, {rounds} rounds, {:?}", started.elapsed());
}

/// Kills one of the workers every 50 to 200 milliseconds.
pub(super) fn kill_at_random(engine: &Engine) {
    let (mut killed, mut random) = (0, 0x9E37_79B9_7F4A_7C15_u64);
    while killed < kills_wanted() {
        // Xorshift; any generator would do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        thread::sleep(Duration::from_millis(50 + random % 151));
        let alive: Vec<u32> =
            engine.workers().iter().filter(|worker| worker.is_alive).map(|worker| worker.pid).collect();
        if let Some(&pid) = alive.get((random >> 32) as usize % alive.len().max(1)) {
            assert!(kill(pid), "a worker that was not killed is gone");
            killed += 1;
            eventually("the death is noticed", || deaths(engine) == killed);
        }
    }
}
