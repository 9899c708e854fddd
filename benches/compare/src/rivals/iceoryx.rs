//! iceoryx2: publish-subscribe in shared memory, by polling and by events; request-response by polling.

use core::hint::spin_loop;
use std::time::Instant;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::measure::Sample;
use crate::pace::Pace;
use crate::peer::{self, Peer};
use crate::place::Pair;
use crate::work::microseconds_each;

type Done = Result<(), Box<dyn core::error::Error>>;
type Made<T> = Result<T, Box<dyn core::error::Error>>;

/// Ends the other process.
const STOP: u64 = u64::MAX;

/// One direction: numbers, and an event for each where somebody sleeps.
struct Outward {
    publisher: Publisher<ipc::Service, u64, ()>,
    notifier: Option<Notifier<ipc::Service>>,
}

struct Inward {
    subscriber: Subscriber<ipc::Service, u64, ()>,
    listener: Option<Listener<ipc::Service>>,
}

fn outward(node: &Node<ipc::Service>, name: &str, by_event: bool) -> Made<Outward> {
    let service = node.service_builder(&ServiceName::new(name)?).publish_subscribe::<u64>().open_or_create()?;
    let publisher = service.publisher_builder().create()?;
    let notifier = match by_event {
        true => {
            Some(node.service_builder(&ServiceName::new(name)?).event().open_or_create()?.notifier_builder().create()?)
        }
        false => None,
    };
    Ok(Outward { publisher, notifier })
}

fn inward(node: &Node<ipc::Service>, name: &str, by_event: bool) -> Made<Inward> {
    let service = node.service_builder(&ServiceName::new(name)?).publish_subscribe::<u64>().open_or_create()?;
    let subscriber = service.subscriber_builder().create()?;
    let listener = match by_event {
        true => {
            Some(node.service_builder(&ServiceName::new(name)?).event().open_or_create()?.listener_builder().create()?)
        }
        false => None,
    };
    Ok(Inward { subscriber, listener })
}

impl Outward {
    fn send(&self, number: u64) -> Done {
        self.publisher.loan_uninit()?.write_payload(number).send()?;
        if let Some(notifier) = &self.notifier {
            notifier.notify()?;
        }
        Ok(())
    }
}

impl Inward {
    fn receive(&self) -> Made<u64> {
        loop {
            if let Some(sample) = self.subscriber.receive()? {
                return Ok(*sample);
            }
            match &self.listener {
                Some(listener) => {
                    listener.blocking_wait(|_| {})?;
                }
                None => spin_loop(),
            }
        }
    }
}

/// Round trips of a number by publish-subscribe.
pub fn round_trip(pair: Pair, pace: Pace, by_event: bool) -> Sample {
    try_round_trip(pair, pace, by_event).map_err(|error| error.to_string())
}

fn try_round_trip(pair: Pair, pace: Pace, by_event: bool) -> Made<f64> {
    let name = format!("workring-compare-{}", std::process::id());
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let there = outward(&node, &format!("{name}-there"), by_event)?;
    let back = inward(&node, &format!("{name}-back"), by_event)?;
    let how = if by_event { "event" } else { "poll" };
    let peer = Peer::start("iceoryx", pair, &[&name, how]);
    let nanoseconds = pace.measure(pair, |number| {
        there.send(number).expect("the other process is there");
        back.receive().expect("the other process is there")
    });
    there.send(STOP)?;
    peer.join();
    Ok(nanoseconds)
}

/// Millions of numbers a second there and back, so many of them under way at a time, by polling.
pub fn many(pair: Pair, jobs: usize, window: usize) -> Sample {
    try_many(pair, jobs, window).map_err(|error| error.to_string())
}

/// A service whose buffers hold a window; nothing is dropped.
fn wide(
    node: &Node<ipc::Service>,
    name: &str,
    window: usize,
) -> Made<iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, u64, ()>> {
    let service = node.service_builder(&ServiceName::new(name)?).publish_subscribe::<u64>();
    Ok(service.subscriber_max_buffer_size(window).enable_safe_overflow(false).history_size(0).open_or_create()?)
}

fn try_many(pair: Pair, jobs: usize, window: usize) -> Made<f64> {
    let name = format!("workring-compare-many-{}", std::process::id());
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let there = wide(&node, &format!("{name}-there"), window)?.publisher_builder().create()?;
    let back = wide(&node, &format!("{name}-back"), window)?.subscriber_builder().create()?;
    let peer = Peer::start("iceoryx", pair, &[&name, "many", &window.to_string()]);
    let rate = pair.with_caller(|| {
        let (mut sent, mut read, mut sum) = (0u64, 0u64, 0u64);
        let start = Instant::now();
        while read < jobs as u64 {
            while sent < jobs as u64 && sent - read < window as u64 {
                there.loan_uninit()?.write_payload(sent).send()?;
                sent += 1;
            }
            while let Some(sample) = back.receive()? {
                sum += *sample;
                read += 1;
            }
        }
        let rate = jobs as f64 / 1e6 / start.elapsed().as_secs_f64();
        assert_eq!(sum, (1..=jobs as u64).sum::<u64>(), "every number came back once");
        Made::Ok(rate)
    })?;
    there.loan_uninit()?.write_payload(STOP).send()?;
    peer.join();
    Ok(rate)
}

fn play_many(name: &str, window: usize) -> Done {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let there = wide(&node, &format!("{name}-there"), window)?.subscriber_builder().create()?;
    let back = wide(&node, &format!("{name}-back"), window)?.publisher_builder().create()?;
    peer::is_ready();
    loop {
        match there.receive()?.map(|sample| *sample) {
            Some(STOP) => return Ok(()),
            Some(number) => drop(back.loan_uninit()?.write_payload(number + 1).send()?),
            None => spin_loop(),
        }
    }
}

/// Microseconds for a batch there and back: a loan that counts as filled but for its ends, and an answer in another loan.
pub fn hand_over(pair: Pair, len: usize, turns: usize, by_event: bool) -> Sample {
    try_hand_over(pair, len, turns, by_event).map_err(|error| error.to_string())
}

type SlicePublisher = Publisher<ipc::Service, [f64], ()>;
type SliceSubscriber = Subscriber<ipc::Service, [f64], ()>;

fn slices_out(node: &Node<ipc::Service>, name: &str, len: usize) -> Made<SlicePublisher> {
    let service = node.service_builder(&ServiceName::new(name)?).publish_subscribe::<[f64]>().open_or_create()?;
    Ok(service.publisher_builder().initial_max_slice_len(len).create()?)
}

fn slices_in(node: &Node<ipc::Service>, name: &str) -> Made<SliceSubscriber> {
    let service = node.service_builder(&ServiceName::new(name)?).publish_subscribe::<[f64]>().open_or_create()?;
    Ok(service.subscriber_builder().create()?)
}

fn try_hand_over(pair: Pair, len: usize, turns: usize, by_event: bool) -> Made<f64> {
    let name = format!("workring-compare-slices-{}", std::process::id());
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let there = slices_out(&node, &format!("{name}-there"), len)?;
    let back = slices_in(&node, &format!("{name}-back"))?;
    let ask = outward(&node, &format!("{name}-ask"), by_event)?;
    let told = inward(&node, &format!("{name}-told"), by_event)?;
    let how = if by_event { "event" } else { "poll" };
    let peer = Peer::start("iceoryx", pair, &[&name, how, &len.to_string()]);
    let mut ends = [0.0; 2];
    let sample = pair.with_caller(|| {
        microseconds_each(turns, &mut ends, |ends| {
            let loan = there.loan_slice_uninit(len).expect("a loan");
            // SAFETY: the segment is zeroed memory of the system's, every bit pattern is a number, and nobody else holds the loan.
            let mut loan = unsafe { loan.assume_init() };
            let values = loan.payload_mut();
            (values[0], values[len - 1]) = (ends[0], ends[1]);
            loan.send().expect("the other process is there");
            ask.send(0).expect("the other process is there");
            told.receive().expect("the other process is there");
            let answer = back.receive().expect("the other process is there").expect("it comes before the number");
            ends.copy_from_slice(&[answer[0], answer[len - 1]]);
        })
    });
    ask.send(STOP)?;
    peer.join();
    Ok(sample)
}

fn play_slices(name: &str, by_event: bool, len: usize) -> Done {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let there = slices_in(&node, &format!("{name}-there"))?;
    let back = slices_out(&node, &format!("{name}-back"), len)?;
    let asked = inward(&node, &format!("{name}-ask"), by_event)?;
    let tell = outward(&node, &format!("{name}-told"), by_event)?;
    peer::is_ready();
    while asked.receive()? != STOP {
        let batch = there.receive()?.ok_or("the batch comes before the number")?;
        let loan = back.loan_slice_uninit(len)?;
        loan.write_from_fn(|at| 2.0 * batch[at] + 1.0).send()?;
        tell.send(0)?;
    }
    Ok(())
}

/// The other process.
pub fn play(arguments: &[String]) -> Done {
    if let (true, Some(window)) = (arguments[1] == "many", arguments.get(2)) {
        return play_many(&arguments[0], window.parse()?);
    }
    if let Some(len) = arguments.get(2) {
        return play_slices(&arguments[0], arguments[1] == "event", len.parse()?);
    }
    let (name, by_event) = (&arguments[0], arguments[1] == "event");
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let there = inward(&node, &format!("{name}-there"), by_event)?;
    let back = outward(&node, &format!("{name}-back"), by_event)?;
    peer::is_ready();
    loop {
        match there.receive()? {
            STOP => return Ok(()),
            number => back.send(number + 1)?,
        }
    }
}
