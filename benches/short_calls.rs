//! Blocking calls over few elements: what a call costs beside the loop that it replaces, one after the other as an iterative solver makes them.

#[cfg(target_os = "linux")]
#[path = "linux/short_calls.rs"]
mod measured;
#[cfg(target_os = "linux")]
mod support;

fn main() {
    #[cfg(target_os = "linux")]
    measured::main();
    #[cfg(not(target_os = "linux"))]
    println!("worker processes, which half of the cases have, need Linux");
}
