//! Engines with worker processes. A program of its own, because workers are copies of it: `main` begins with `worker_entry`.
#![cfg_attr(not(target_os = "linux"), allow(unused))]

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod causes;
#[cfg(target_os = "linux")]
mod confined;
#[cfg(target_os = "linux")]
mod crew;
#[cfg(target_os = "linux")]
mod deaths;
#[cfg(target_os = "linux")]
mod descendants;
#[cfg(target_os = "linux")]
mod environment;
#[cfg(all(feature = "fault", target_os = "linux"))]
mod faults;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
mod indexing;
#[cfg(target_os = "linux")]
mod kernels;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod madness;
#[cfg(target_os = "linux")]
mod names;
#[cfg(target_os = "linux")]
mod outside;
#[cfg(target_os = "linux")]
mod parts;
#[cfg(target_os = "linux")]
mod seen;
#[cfg(target_os = "linux")]
mod shared_array;
#[cfg(target_os = "linux")]
mod support;
#[cfg(target_os = "linux")]
mod together;
#[cfg(target_os = "linux")]
mod whole;
#[cfg(target_os = "linux")]
mod workers;

#[cfg(target_os = "linux")]
fn main() {
    workring::worker_entry(kernels::ALL());
    support::play_a_role();
    let arguments = libtest_mimic::Arguments::from_args();
    let limits =
        [confined::tests(), descendants::tests(), environment::tests(), hosts::tests(), limits::tests()].concat();
    let tests = [
        calls::tests(),
        causes::tests(),
        crew::tests(),
        deaths::tests(),
        indexing::tests(),
        limits,
        madness::tests(),
        names::tests(),
        outside::tests(),
        seen::tests(),
        shared_array::tests(),
        together::tests(),
        whole::tests(),
        workers::tests(),
    ]
    .concat();
    let trial = |name: String, test: Box<dyn FnOnce() + Send>| {
        libtest_mimic::Trial::test(name, move || {
            support::watched(test);
            Ok(())
        })
    };
    let trials = tests.into_iter().map(|(name, test)| trial(name.into(), Box::new(test)));
    #[cfg(feature = "fault")]
    let trials = trials.chain(faults::tests().into_iter().map(|(name, test)| trial(name, test)));
    libtest_mimic::run(&arguments, trials.collect()).exit()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
