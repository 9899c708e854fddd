//! How often somebody asks, and how long an answer takes.

use core::hint::spin_loop;
use std::time::{Duration, Instant};

use crate::place::Pair;
use crate::statistics::Summary;

/// When the next question follows an answer.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At once, so many times.
    BackToBack(usize),
    /// After the asking thread has computed for a while, so that the answering side has gone to sleep if it ever does.
    AfterWork { trips: usize, work: Duration },
}

impl Pace {
    /// Nanoseconds from question to answer, the caller in its place. `turn` is given a number and answers with the next one.
    pub fn measure(self, pair: Pair, mut turn: impl FnMut(u64) -> u64) -> f64 {
        let mut number = 0;
        let mut turn = || {
            let answer = turn(number);
            number += 1;
            assert_eq!(answer, number, "the answer to this very question");
        };
        pair.with_caller(|| match self {
            Self::BackToBack(trips) => {
                (0..trips / 10 + 1).for_each(|_| turn());
                let start = Instant::now();
                (0..trips).for_each(|_| turn());
                start.elapsed().as_secs_f64() * 1e9 / trips as f64
            }
            Self::AfterWork { trips, work } => {
                let one = |_| {
                    compute_for(work);
                    let start = Instant::now();
                    turn();
                    start.elapsed().as_secs_f64() * 1e9
                };
                Summary::of(&(0..trips).map(one).collect::<Vec<_>>()).median
            }
        })
    }
}

fn compute_for(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        spin_loop();
    }
}
