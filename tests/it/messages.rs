//! Message ports and workers that talk through them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

use bytemuck::Pod;
use proptest::prelude::*;
use workring::{
    Batch, Engine, Error, MessagePort, Worker,
    message::{ExitStatus, Message, WorkerScope},
};

/// Only a broken test waits so long.
const PATIENCE: Duration = crate::support::STEP;

fn engine() -> Engine {
    Engine::builder().threads(1).build().unwrap()
}

fn blocks(engine: &Engine) -> u64 {
    engine.statistics().arena.blocks
}

#[test]
fn values_of_every_size_arrive_whole() {
    fn check<T: Pod + PartialEq + std::fmt::Debug + Send>(make: impl Fn(u8) -> T) {
        let (here, there) = MessagePort::<T, ()>::pair(4).unwrap();
        for round in 0..20 {
            here.send(make(round)).unwrap();
            here.send(make(round ^ 0xFF)).unwrap();
            assert_eq!(there.recv().unwrap().value, make(round));
            assert_eq!(there.recv().unwrap().value, make(round ^ 0xFF));
        }
    }
    check(|_| ());
    check(|byte| byte);
    check(|byte| [byte; 3]);
    check(|byte| f64::from(byte) / 3.0);
    check(|byte| [u16::from(byte), 7, 9, 11, 13]);
    check(|byte| [u128::from(byte); 4]);
    check(|byte| [byte; 64]);
}

#[test]
fn batches_change_hands_without_a_copy() {
    let engine = engine();
    let (here, there) = MessagePort::<u8, u8>::pair(2).unwrap();
    let batch = engine.batch_from_slice(&[1.5_f64, 2.5]).unwrap();
    let shared = engine.batch_from_slice(&[7_u32; 3]).unwrap().freeze();
    let (at, shared_at) = (batch.as_ptr(), shared.as_ptr());
    here.send_with(1, vec![batch.into(), shared.clone().into()]).unwrap();
    let Message { value: 1, mut batches } = there.recv().unwrap() else { panic!("another value") };
    let received = batches.remove(0);
    assert_eq!((received.len_bytes(), received.element_name()), (16, "f64"));
    // Another type, or another kind, is no loss.
    let received = received.into_batch::<u64>().unwrap_err().into_shared::<f64>().unwrap_err();
    let mut received: Batch<f64> = received.into_batch().unwrap();
    assert_eq!(received.as_ptr(), at);
    received[0] = 9.0;
    there.send_with(2, vec![received.into()]).unwrap();
    let back: Batch<f64> = here.recv().unwrap().batches.remove(0).into_batch().unwrap();
    assert_eq!(*back, [9.0, 2.5]);
    let again = batches.remove(0).into_batch::<u32>().unwrap_err().into_shared::<u32>().unwrap();
    assert_eq!(again.as_ptr(), shared_at);
    drop((back, again, shared));
    assert_eq!(blocks(&engine), 0);
}

#[test]
fn a_full_channel_hands_the_message_back() {
    let engine = engine();
    let (here, there) = MessagePort::<u64, ()>::pair(3).unwrap();
    assert_eq!(here.capacity(), 4, "rounded up");
    (0..4).for_each(|number| here.try_send(number, Vec::new()).unwrap());
    let batch = engine.batch_from_slice(&[5_u8]).unwrap();
    let failed = here.try_send(4, vec![batch.into()]).unwrap_err();
    assert!(matches!(failed.error, Error::ChannelFull { capacity: 4 }), "{}", failed.error);
    let Message { value, batches } = failed.returned;
    let failed = here.send_timeout(value, batches, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(failed.error, Error::ChannelFull { capacity: 4 }));
    let Message { value, batches } = failed.returned;
    assert_eq!((here.unreceived(), there.waiting()), (4, 4));
    assert_eq!(there.recv().unwrap().value, 0);
    here.try_send(value, batches).unwrap();
    for number in 1..4 {
        assert_eq!(there.recv().unwrap().value, number);
    }
    let mut last = there.recv().unwrap();
    assert_eq!((last.value, &*last.batches.remove(0).into_batch::<u8>().unwrap()), (4, &[5][..]));
    assert!(there.try_recv().unwrap().is_none());
    assert!(there.recv_timeout(Duration::from_millis(1)).unwrap().is_none());
}

#[test]
fn capacities_out_of_range_are_errors() {
    for capacity in [0, (1 << 20) + 1, usize::MAX] {
        assert!(matches!(MessagePort::<u8, u8>::pair(capacity), Err(Error::InvalidArgument { .. })));
    }
    assert_eq!(MessagePort::<u8, u8>::pair(1).unwrap().0.capacity(), 2);
}

/// In Node a message to a worker that has ended is gone without a word.
#[test]
fn what_nobody_will_receive_comes_back() {
    let engine = engine();
    let (here, there) = MessagePort::<u32, u32>::pair(8).unwrap();
    there.send(70).unwrap();
    for number in 0..3 {
        let batch = engine.batch_from_slice(&[number]).unwrap();
        here.send_with(number, vec![batch.into()]).unwrap();
    }
    assert_eq!(there.recv().unwrap().value, 0);
    assert!(here.undelivered().is_empty(), "the other end is still there");
    drop(there);
    assert!(here.is_disconnected());
    let failed = here.send_with(3, vec![engine.batch::<u8>(1).unwrap().into()]).unwrap_err();
    assert!(matches!(failed.error, Error::Disconnected));
    assert_eq!((failed.returned.value, failed.returned.batches.len()), (3, 1));
    let back = here.undelivered();
    assert_eq!(back.iter().map(|message| message.value).collect::<Vec<_>>(), [1, 2]);
    let batches: Vec<Batch<u32>> =
        back.into_iter().flat_map(|message| message.batches).map(|batch| batch.into_batch().unwrap()).collect();
    assert_eq!(batches.iter().map(|batch| batch[0]).collect::<Vec<_>>(), [1, 2]);
    // What it had posted comes first, then its end.
    assert_eq!(here.recv().unwrap().value, 70);
    assert!(matches!(here.recv(), Err(Error::Disconnected)));
    assert!(matches!(here.try_recv(), Err(Error::Disconnected)));
    assert!(matches!(here.recv_timeout(PATIENCE), Err(Error::Disconnected)));
}

#[test]
fn batches_in_a_channel_that_is_dropped_are_given_back() {
    let engine = engine();
    let (here, there) = MessagePort::<u32, ()>::pair(8).unwrap();
    for number in 0..5 {
        here.send_with(number, vec![engine.batch::<u64>(100).unwrap().into()]).unwrap();
    }
    assert_eq!(blocks(&engine), 5);
    drop(here);
    assert_eq!(blocks(&engine), 5, "they can still be received");
    drop(there);
    assert_eq!(blocks(&engine), 0);
}

#[test]
fn an_end_that_goes_wakes_everybody_who_waits_for_it() {
    // The others look, yield or sleep by then, the later the more of them sleep.
    for delay in (0..100).map(|round| round * 10) {
        let (here, there) = MessagePort::<u32, u32>::pair(2).unwrap();
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..2).map(|_| here.clone()).map(|port| scope.spawn(move || port.recv())).collect();
            let full = here.clone();
            let posting = scope.spawn(move || (0..).map(|number| full.send(number)).find_map(Result::err).unwrap());
            while there.waiting() < 2 {
                thread::yield_now();
            }
            (0..delay).for_each(|_| thread::yield_now());
            drop(there);
            let failed = posting.join().unwrap();
            assert!(matches!(failed.error, Error::Disconnected));
            assert_eq!(failed.returned.value, 2);
            for receiver in waiting {
                assert!(matches!(receiver.join().unwrap(), Err(Error::Disconnected)));
            }
        });
        assert_eq!(here.undelivered().len(), 2);
    }
}

#[test]
fn many_threads_at_both_ends_get_every_message_once() {
    const EACH: u64 = 20_000;
    let (here, there) = MessagePort::<u64, ()>::pair(16).unwrap();
    let received: Vec<u64> = thread::scope(|scope| {
        for poster in 0..3 {
            let port = here.clone();
            scope.spawn(move || (0..EACH).for_each(|number| port.send(poster << 32 | number).unwrap()));
        }
        drop(here);
        let receivers: Vec<_> = (0..3)
            .map(|_| there.clone())
            .map(|port| scope.spawn(move || port.iter().map(|message| message.value).collect::<Vec<_>>()))
            .collect();
        receivers.into_iter().flat_map(|receiver| receiver.join().unwrap()).collect()
    });
    let mut sorted = received;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq((0..3).flat_map(|poster| (0..EACH).map(move |number| poster << 32 | number))));
}

/// A step at one of two ends: a message, values at once, or what is there.
#[derive(Clone, Debug)]
enum Step {
    Send(u16, bool),
    SendMany(Vec<u16>),
    Receive,
    ReceiveMany(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<(u16, bool)>().prop_map(|(value, with_batch)| Step::Send(value, with_batch)),
        2 => proptest::collection::vec(any::<u16>(), 0..20).prop_map(Step::SendMany),
        4 => Just(Step::Receive),
        2 => (0..20_usize).prop_map(Step::ReceiveMany),
    ]
}

proptest! {
    /// A channel against two queues, to the end of one of its ends.
    #[test]
    fn a_channel_does_as_two_queues(
        steps in proptest::collection::vec((any::<bool>(), step()), 0..200),
        exponent in 1u32..5,
    ) {
        let engine = engine();
        let capacity = 1 << exponent;
        let (left, right) = MessagePort::<u16, u16>::pair(capacity).unwrap();
        let mut queues: [VecDeque<(u16, bool)>; 2] = Default::default();
        for (from_left, step) in steps {
            let (port, queue) = if from_left { (&left, &mut queues[0]) } else { (&right, &mut queues[1]) };
            let other = if from_left { &right } else { &left };
            match step {
                Step::Send(value, with_batch) => {
                    let batches = if with_batch { vec![engine.batch::<u8>(1).unwrap().into()] } else { Vec::new() };
                    let posted = port.try_send(value, batches);
                    prop_assert_eq!(posted.is_ok(), queue.len() < capacity);
                    match posted {
                        Ok(()) => queue.push_back((value, with_batch)),
                        Err(failed) => {
                            prop_assert_eq!(failed.returned.value, value);
                            prop_assert_eq!(failed.returned.batches.len(), usize::from(with_batch));
                        }
                    }
                }
                Step::SendMany(values) => {
                    let posted = port.try_send_many(&values).unwrap();
                    prop_assert_eq!(posted, values.len().min(capacity - queue.len()));
                    queue.extend(values[..posted].iter().map(|&value| (value, false)));
                    let rest = &values[posted..];
                    if !rest.is_empty() {
                        let failed = port.send_many_timeout(rest, Duration::ZERO).unwrap_err();
                        let is_full = matches!(failed.error, Error::ChannelFull { .. });
                        prop_assert!(is_full && failed.returned == 0);
                    }
                }
                Step::Receive => {
                    let received = other.try_recv().unwrap().map(|message| (message.value, !message.batches.is_empty()));
                    prop_assert_eq!(received, queue.pop_front());
                }
                Step::ReceiveMany(room) => {
                    let plain = queue.iter().take_while(|(_, with_batch)| !with_batch).count().min(room);
                    let is_empty = queue.is_empty() && room != 0;
                    let expected: Vec<u16> = queue.drain(..plain).map(|(value, _)| value).collect();
                    let mut values = vec![0; room];
                    let received = other.try_recv_many(&mut values).unwrap();
                    prop_assert_eq!(received, (!is_empty).then_some(plain));
                    prop_assert_eq!(&values[..plain], &expected);
                }
            }
            prop_assert_eq!((left.unreceived(), right.waiting()), (queues[0].len(), queues[0].len()));
        }
        drop(right);
        let back: Vec<_> = left.undelivered().into_iter().map(|message| (message.value, !message.batches.is_empty())).collect();
        prop_assert_eq!(back, Vec::from_iter(queues[0].drain(..)));
        let rest: Vec<_> = left.iter().map(|message| (message.value, !message.batches.is_empty())).collect();
        prop_assert_eq!(rest, Vec::from_iter(queues[1].drain(..)));
        prop_assert_eq!(blocks(&engine), 0);
    }
}

/// Slices longer than the channel, of values of every size, from several threads to several threads, by all calls that take slices.
#[test]
fn slices_arrive_once_and_in_the_order_of_each_thread() {
    const EACH: u64 = 20_000;
    fn check<T: Pod + Send + Sync>(make: impl Fn(u64) -> T + Sync, number: impl Fn(&T) -> u64 + Sync) {
        let (here, there) = MessagePort::<T, ()>::pair(16).unwrap();
        let receive = |port: &MessagePort<(), T>, thread: usize| {
            let (mut numbers, mut values) = (Vec::new(), [T::zeroed(); 11]);
            loop {
                let received = match thread {
                    0 => port.recv_many(&mut values),
                    1 => match port.recv_many_timeout(&mut values, PATIENCE) {
                        Ok(count) => Ok(count.expect("messages come")),
                        Err(error) => Err(error),
                    },
                    _ => futures_executor::block_on(port.recv_many_async(&mut values)),
                };
                match received {
                    Ok(count) => numbers.extend(values[..count].iter().map(&number)),
                    Err(Error::Disconnected) => return numbers,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let received: Vec<Vec<u64>> = thread::scope(|scope| {
            for poster in 0..3 {
                let (port, make) = (here.clone(), &make);
                scope.spawn(move || {
                    let values: Vec<T> = (0..EACH).map(|number| make(poster << 32 | number)).collect();
                    for part in values.chunks(37) {
                        match poster {
                            0 => port.send_many(part).unwrap(),
                            1 => port.send_many_timeout(part, PATIENCE).unwrap(),
                            _ => futures_executor::block_on(port.send_many_async(part)).unwrap(),
                        }
                    }
                });
            }
            drop(here);
            let receivers: Vec<_> = (0..3)
                .map(|thread| (thread, there.clone()))
                .map(|(thread, port)| scope.spawn(move || receive(&port, thread)))
                .collect();
            receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
        });
        for one in &received {
            for poster in 0..3 {
                assert!(one.iter().filter(|&number| number >> 32 == poster).is_sorted());
            }
        }
        let mut sorted = received.concat();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq((0..3).flat_map(|poster| (0..EACH).map(move |number| poster << 32 | number))));
    }
    check(|number| number, |&number| number);
    check(|number| [number as u32, (number >> 32) as u32, 7], |value| u64::from(value[1]) << 32 | u64::from(value[0]));
    check(
        |number| [number; 8],
        |value| {
            assert!(value.iter().all(|word| *word == value[0]), "torn");
            value[0]
        },
    );
}

#[test]
fn slices_of_values_without_bytes_are_counted() {
    let (here, there) = MessagePort::<(), ()>::pair(4).unwrap();
    assert_eq!(here.try_send_many(&[(); 6]).unwrap(), 4);
    assert_eq!(there.recv_many(&mut [(); 3]).unwrap(), 3);
    assert_eq!(there.recv_many(&mut [(); 3]).unwrap(), 1);
}

/// How many of a slice were posted is said, and those that nobody received come back.
#[test]
fn a_slice_that_is_not_posted_to_its_end_is_not_lost() {
    let (here, there) = MessagePort::<u32, ()>::pair(4).unwrap();
    let numbers: Vec<u32> = (0..10).collect();
    let failed = here.send_many_timeout(&numbers, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(failed.error, Error::ChannelFull { capacity: 4 }) && failed.returned == 4);
    let task = Arc::new(Counter::default());
    let mut post = here.send_many_async(&numbers[4..]);
    assert!(task.poll(&mut post).is_pending() && post.posted() == 0);
    let mut values = [0; 3];
    assert_eq!((there.recv_many(&mut values).unwrap(), values), (3, [0, 1, 2]));
    assert!(task.get() == 1 && task.poll(&mut post).is_pending() && post.posted() == 3);
    drop(post);
    let (posting, rest) = (here.clone(), numbers[7..].to_vec());
    let posting = thread::spawn(move || posting.send_many(&rest));
    assert_eq!((there.recv_many(&mut values[..1]).unwrap(), values[0]), (1, 3));
    while here.unreceived() < 4 {
        thread::yield_now();
    }
    drop(there);
    let failed = posting.join().unwrap().unwrap_err();
    assert!(matches!(failed.error, Error::Disconnected) && failed.returned == 1);
    assert!(matches!(here.try_send_many(&numbers), Err(Error::Disconnected)));
    assert_eq!(here.undelivered().iter().map(|message| message.value).collect::<Vec<_>>(), [4, 5, 6, 7]);
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn poll<F: Future + Unpin>(self: &Arc<Self>, future: &mut F) -> Poll<F::Output> {
        let waker = Arc::clone(self).into();
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn tasks_wait_for_messages_and_for_room() {
    let (here, there) = MessagePort::<u32, ()>::pair(2).unwrap();
    let [receiving, posting] = [(); 2].map(|()| Arc::new(Counter::default()));
    let mut receive = there.recv_async();
    assert!(receiving.poll(&mut receive).is_pending());
    assert!(receiving.poll(&mut receive).is_pending(), "polled twice");
    here.send(1).unwrap();
    assert_eq!(receiving.get(), 1);
    let Poll::Ready(Ok(message)) = receiving.poll(&mut receive) else { panic!("it was woken for nothing") };
    assert_eq!(message.value, 1);
    drop(receive);
    (2..4).for_each(|number| here.send(number).unwrap());
    let mut post = here.send_async(4, Vec::new());
    assert!(posting.poll(&mut post).is_pending());
    assert_eq!(there.recv().unwrap().value, 2);
    assert_eq!(posting.get(), 1);
    assert!(matches!(posting.poll(&mut post), Poll::Ready(Ok(()))));
    assert_eq!(there.iter().take(2).map(|message| message.value).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(receiving.get(), 1, "nobody waits any more");
    // The end of the other side is heard of as well.
    let mut receive = there.recv_async();
    assert!(receiving.poll(&mut receive).is_pending());
    drop(post);
    drop(here);
    assert_eq!(receiving.get(), 2);
    assert!(matches!(receiving.poll(&mut receive), Poll::Ready(Err(Error::Disconnected))));
}

/// A task that was called and then dropped would take the message's only call with it.
#[test]
fn a_task_that_is_dropped_passes_its_call_on() {
    let (here, there) = MessagePort::<u32, ()>::pair(2).unwrap();
    let [first, second] = [(); 2].map(|()| Arc::new(Counter::default()));
    let (mut one, mut two) = (there.recv_async(), there.recv_async());
    assert!(first.poll(&mut one).is_pending() && second.poll(&mut two).is_pending());
    here.send(1).unwrap();
    assert_eq!((first.get(), second.get()), (1, 0));
    drop(one);
    assert_eq!(second.get(), 1);
    assert!(matches!(second.poll(&mut two), Poll::Ready(Ok(message)) if message.value == 1));
    // One that was not called takes nothing with it.
    let (mut one, mut two) = (there.recv_async(), there.recv_async());
    assert!(first.poll(&mut one).is_pending() && second.poll(&mut two).is_pending());
    drop(one);
    here.send(2).unwrap();
    assert_eq!((first.get(), second.get()), (1, 2));
    assert!(second.poll(&mut two).is_ready());
}

#[test]
fn ports_are_streams_on_any_runtime() {
    let (here, there) = MessagePort::<u32, u64>::pair(4).unwrap();
    let echo = thread::spawn(move || {
        futures_executor::block_on(async {
            let mut sum = 0;
            let mut stream = pin!(there.stream());
            while let Some(message) =
                std::future::poll_fn(|context| futures_core::Stream::poll_next(stream.as_mut(), context)).await
            {
                sum += u64::from(message.value);
                there.send_async(sum, Vec::new()).await.unwrap();
            }
        });
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut expected = 0;
        for number in 0..1000 {
            here.send_async(number, Vec::new()).await.unwrap();
            expected += u64::from(number);
            assert_eq!(here.recv_async().await.unwrap().value, expected);
        }
    });
    drop(here);
    echo.join().unwrap();
}

#[test]
fn workers_end_as_their_functions_do() {
    let finished = Worker::<(), ()>::spawn(|_| ()).unwrap();
    assert_eq!(finished.join(), ExitStatus::Finished);
    let failed = Worker::<(), ()>::spawn(|_| Err::<(), _>("no prices")).unwrap();
    assert_eq!(failed.wait_timeout(PATIENCE), Some(ExitStatus::Failed { message: "no prices".to_owned() }));
    assert_eq!(failed.status(), failed.wait_timeout(PATIENCE));
    assert_eq!(failed.join().to_string(), "failed: no prices");
    let panicked = Worker::<(), ()>::spawn(|_| -> () { panic!("at the {}", "disco") }).unwrap();
    match panicked.join() {
        ExitStatus::Panicked { message, location } => {
            assert_eq!(message, "at the disco");
            assert!(location.contains("messages.rs"), "{location}");
        }
        other => panic!("{other}"),
    }
    // With the handle gone a loop over its messages ends.
    let (sender, receiver) = mpsc::channel();
    let looping = Worker::<u8, ()>::spawn(move |scope: &WorkerScope<u8, ()>| {
        while let Ok(message) = scope.recv() {
            sender.send(message.value).unwrap();
        }
    })
    .unwrap();
    looping.send(5).unwrap();
    drop(looping);
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [5]);
}

/// In Node a message to a dead worker is a silent no-op.
#[test]
fn a_post_to_a_dead_worker_hands_the_message_back() {
    let worker = Worker::<u32, ()>::spawn(|_| ()).unwrap();
    assert_eq!(worker.wait_timeout(PATIENCE), Some(ExitStatus::Finished));
    let failed = worker.send(3).unwrap_err();
    assert!(matches!(failed.error, Error::Disconnected));
    assert_eq!(failed.returned.value, 3);
    assert!(matches!(worker.recv(), Err(Error::Disconnected)));
}

#[test]
fn a_worker_that_is_told_to_end_does_so_wherever_it_waits() {
    let receiving = Worker::<u32, ()>::spawn(|scope| scope.recv().map(drop)).unwrap();
    let posting = Worker::<(), u32>::spawn(|scope| {
        (0..).try_for_each(|number| scope.send(number).map_err(|failed| failed.error))
    })
    .unwrap();
    let running = Worker::<(), ()>::spawn(|scope| {
        while !scope.is_terminated() {
            thread::yield_now();
        }
    })
    .unwrap();
    while posting.port().waiting() < posting.port().capacity() {
        thread::yield_now();
    }
    assert_eq!(receiving.wait_timeout(Duration::from_millis(20)), None);
    assert_eq!((receiving.status(), posting.status(), running.status()), (None, None, None));
    receiving.terminate();
    posting.terminate();
    running.terminate();
    running.terminate();
    assert_eq!(receiving.wait_timeout(PATIENCE), Some(ExitStatus::Terminated));
    assert_eq!(posting.wait_timeout(PATIENCE), Some(ExitStatus::Terminated));
    assert_eq!(running.join(), ExitStatus::Terminated);
    // What it had posted can still be received.
    assert_eq!(posting.recv().unwrap().value, 0);
}

#[test]
fn messages_that_a_terminated_worker_did_not_receive_come_back() {
    let (go, wait) = mpsc::channel::<()>();
    let worker = Worker::<u32, ()>::spawn(move |scope| {
        wait.recv().unwrap();
        scope.recv().map(drop)
    })
    .unwrap();
    (0..3).for_each(|number| worker.send(number).unwrap());
    worker.terminate();
    go.send(()).unwrap();
    assert_eq!(worker.wait_timeout(PATIENCE), Some(ExitStatus::Terminated));
    let back: Vec<u32> = worker.port().undelivered().into_iter().map(|message| message.value).collect();
    assert_eq!(back, [0, 1, 2]);
}

#[test]
fn listeners_hear_of_the_end_once() {
    let (sender, heard) = mpsc::channel();
    let say = |what: &'static str| {
        let sender = sender.clone();
        move |status: &ExitStatus| sender.send((what, status.clone())).unwrap()
    };
    let (go, wait) = mpsc::channel::<()>();
    let worker = Worker::<(), ()>::spawn(move |_| wait.recv().map_err(|_| "gone")).unwrap();
    worker.on_exit(say("exit"));
    worker.on_error(say("error"));
    worker.on_exit(|_| panic!("a listener that panics hides the end from nobody"));
    worker.on_exit(say("last"));
    drop(go);
    let status = ExitStatus::Failed { message: "gone".to_owned() };
    for what in ["exit", "error", "last"] {
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), (what, status.clone()));
    }
    worker.on_exit(say("late"));
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), ("late", status));
    let fine = Worker::<(), ()>::spawn(|_| ()).unwrap();
    fine.on_error(say("no error"));
    fine.on_exit(say("exit"));
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), ("exit", ExitStatus::Finished));
    assert_eq!(fine.join(), ExitStatus::Finished);
    drop(sender);
    assert!(heard.recv().is_err(), "nothing else was heard");
}

#[test]
fn a_broadcast_reaches_every_worker_that_lives() {
    let spawn = |stays: bool| {
        Worker::<u32, u32>::spawn(move |scope| match stays {
            true => scope.recv().map(|message| scope.send(message.value * 2).unwrap()),
            false => Ok(()),
        })
        .unwrap()
    };
    let workers = [spawn(true), spawn(false), spawn(true)];
    assert_eq!(workers[1].wait_timeout(PATIENCE), Some(ExitStatus::Finished));
    let failed = Worker::broadcast(&workers, 21);
    assert_eq!(failed.iter().map(|(at, failed)| (*at, failed.returned.value)).collect::<Vec<_>>(), [(1, 21)]);
    for at in [0, 2] {
        assert_eq!(workers[at].recv().unwrap().value, 42);
    }
}

#[test]
fn workers_have_names_and_stacks_and_may_use_engines() {
    let engine = Arc::new(engine());
    let worker = Worker::<(), ()>::builder()
        .name("pricing")
        .stack_size(1 << 20)
        .capacity(8)
        .spawn::<u32, u64, _, _>({
            let engine = engine.clone();
            move |scope| -> workring::Result<()> {
                assert_eq!((thread::current().name(), scope.name()), (Some("pricing"), "pricing"));
                // More jobs than the queue has room for: a kernel could not wait for room, a worker can.
                let message = scope.recv()?;
                let jobs: Vec<_> = (0..4).map(|number| engine.run(move || number + u64::from(message.value))).collect();
                let sum = jobs.into_iter().map(|job| job.unwrap().wait().unwrap()).sum();
                scope.send(sum)?;
                Ok(())
            }
        })
        .unwrap();
    assert_eq!((worker.name(), worker.port().capacity()), ("pricing", 8));
    worker.send(10).unwrap();
    assert_eq!(worker.recv().unwrap().value, 46);
    assert_eq!(worker.join(), ExitStatus::Finished);
    assert!(matches!(
        Worker::<(), ()>::builder().name("a\0b").spawn::<(), (), _, _>(|_| ()),
        Err(Error::InvalidArgument { .. })
    ));
}
