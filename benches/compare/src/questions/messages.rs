//! Items a second from threads to threads through a bounded queue: small ones, and ones of a cache line.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use workring::MessagePort;

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};

/// Items that may wait.
const CAPACITY: usize = 1024;

/// An item: a number, alone or with 56 bytes more.
pub trait Item: Copy + Send + 'static + workring::bytemuck::Pod {
    fn of(number: u64) -> Self;
    fn number(self) -> u64;
}

impl Item for u64 {
    fn of(number: u64) -> Self {
        number
    }

    fn number(self) -> u64 {
        self
    }
}

impl Item for [u64; 8] {
    fn of(number: u64) -> Self {
        [number; 8]
    }

    fn number(self) -> u64 {
        self[7]
    }
}

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let items = effort.pick(2_000_000, 8_000);
    let mut measured = Vec::new();
    for (posters, receivers) in [(1, 1), (4, 1), (2, 2), (4, 4)] {
        measured.push(effort.run(through::<u64>("a number", items, posters, receivers))?);
    }
    measured.push(effort.run(through::<[u64; 8]>("64 bytes", items, 1, 1))?);
    Ok(measured)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn through<T: Item>(what: &str, items: u64, posters: usize, receivers: usize) -> Table<'static> {
    let (from, to) = (counted(posters, "poster"), counted(receivers, "receiver"));
    let title = format!("{items} items of {what} through a queue of {CAPACITY}, {from}, {to}");
    let mut table = Table::new(title, "M items/s", Better::Higher);
    table
        .ours("MessagePort", move || {
            let (here, there) = MessagePort::<T, ()>::pair(CAPACITY).map_err(|error| error.to_string())?;
            let post = move |item| here.send(item).map_err(|failed| failed.error).expect("a receiver");
            Ok(flow(items, posters, receivers, post, move || there.recv().ok().map(|message| message.value)))
        })
        .goal(With::BestRival, 1.0);
    if (posters, receivers) == (1, 1) {
        table
            .ours("MessagePort, slices of 256", move || {
                let (here, there) = MessagePort::<T, ()>::pair(CAPACITY).map_err(|error| error.to_string())?;
                Ok(flow_of_slices(items, here, &there))
            })
            .goal(With::BestRival, 5.0);
    }
    macro_rules! channel {
        ($name:expr, $new:expr) => {
            table.rival($name, move || {
                let (sender, receiver) = $new;
                let send = move |item: T| sender.send(item).expect("a receiver");
                Ok(flow(items, posters, receivers, send, move || receiver.recv().ok()))
            });
        };
    }
    channel!("crossbeam-channel", crossbeam_channel::bounded(CAPACITY));
    channel!("kanal", kanal::bounded(CAPACITY));
    channel!("flume", flume::bounded(CAPACITY));
    if receivers == 1 {
        table.rival("std sync_channel", move || {
            let (sender, receiver) = mpsc::sync_channel(CAPACITY);
            let send = move |item: T| sender.send(item).expect("a receiver");
            Ok(flow_to_one(items, posters, send, move || receiver.recv().ok()))
        });
    }
    // Queues whose users spin where nothing is to be had, and never sleep: where there are more threads than cores they yield.
    table.limit("crossbeam-queue, which never sleeps", move || {
        let queue = Arc::new(crossbeam_queue::ArrayQueue::new(CAPACITY));
        let left = Arc::new(std::sync::atomic::AtomicU64::new(items));
        let full = queue.clone();
        let send = move |item: T| {
            let mut item = item;
            while let Err(back) = full.push(item) {
                item = back;
                thread::yield_now();
            }
        };
        let recv = move || loop {
            if let Some(item) = queue.pop() {
                left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
                return Some(item);
            }
            if left.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                return None;
            }
            thread::yield_now();
        };
        Ok(flow(items, posters, receivers, send, recv))
    });
    if (posters, receivers) == (1, 1) {
        table.limit("rtrb, one to one, which never sleeps", move || {
            let (mut producer, mut consumer) = rtrb::RingBuffer::new(CAPACITY);
            let start = Instant::now();
            let sum = thread::scope(|scope| {
                scope.spawn(move || {
                    for number in 0..items {
                        while producer.push(T::of(number)).is_err() {
                            std::hint::spin_loop();
                        }
                    }
                });
                let mut sum = 0;
                for _ in 0..items {
                    let item: T = loop {
                        match consumer.pop() {
                            Ok(item) => break item,
                            Err(_) => std::hint::spin_loop(),
                        }
                    };
                    sum += item.number();
                }
                sum
            });
            finish(items, start, sum)
        });
    }
    table
}

fn finish(items: u64, start: Instant, sum: u64) -> Sample {
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(sum, items * (items - 1) / 2, "every item came once");
    Ok(items as f64 / 1e6 / seconds)
}

/// Millions of items a second, from the first posted to the last received. `recv` ends when every `send` is dropped.
fn flow<T: Item>(
    items: u64,
    posters: usize,
    receivers: usize,
    send: impl Fn(T) + Clone + Send,
    recv: impl Fn() -> Option<T> + Clone + Send,
) -> f64 {
    let receive_by_all = || {
        thread::scope(|scope| {
            let others: Vec<_> =
                (1..receivers).map(|_| recv.clone()).map(|recv| scope.spawn(move || receive(recv))).collect();
            receive(&recv) + others.into_iter().map(|other| other.join().expect("no receiver panics")).sum::<u64>()
        })
    };
    posted_and(items, posters, send, receive_by_all)
}

/// As [`flow`] from one thread to another, by the calls that take slices.
fn flow_of_slices<T: Item>(items: u64, here: MessagePort<T, ()>, there: &MessagePort<(), T>) -> f64 {
    const SLICE: usize = 256;
    let start = Instant::now();
    let sum = thread::scope(|scope| {
        scope.spawn(move || {
            let mut values = [T::of(0); SLICE];
            for first in (0..items).step_by(SLICE) {
                let values = &mut values[..SLICE.min((items - first) as usize)];
                values.iter_mut().zip(first..).for_each(|(value, number)| *value = T::of(number));
                here.send_many(values).map_err(|failed| failed.error).expect("a receiver");
            }
        });
        let (mut sum, mut values) = (0, [T::of(0); SLICE]);
        while let Ok(count) = there.recv_many(&mut values) {
            sum += values[..count].iter().map(|value| value.number()).sum::<u64>();
        }
        sum
    });
    finish(items, start, sum).expect("a rate")
}

/// As [`flow`], for a receiver that cannot be cloned.
fn flow_to_one<T: Item>(
    items: u64,
    posters: usize,
    send: impl Fn(T) + Clone + Send,
    recv: impl Fn() -> Option<T>,
) -> f64 {
    posted_and(items, posters, send, || receive(recv))
}

fn receive<T: Item>(recv: impl Fn() -> Option<T>) -> u64 {
    core::iter::from_fn(recv).map(Item::number).sum()
}

/// The rate at which `posters` threads post while `receive` receives, which gives the sum of the numbers.
fn posted_and<T: Item>(
    items: u64,
    posters: usize,
    send: impl Fn(T) + Clone + Send,
    receive: impl FnOnce() -> u64,
) -> f64 {
    let share = items / posters as u64;
    let start = Instant::now();
    let sum = thread::scope(|scope| {
        for poster in 0..posters as u64 {
            let send = send.clone();
            scope.spawn(move || (poster * share..(poster + 1) * share).for_each(|number| send(T::of(number))));
        }
        drop(send);
        receive()
    });
    finish(share * posters as u64, start, sum).expect("a rate")
}
