//! Worker processes beside worker threads. Only Linux has worker processes.

#[cfg(target_os = "linux")]
#[path = "linux/processes.rs"]
mod measured;
#[cfg(target_os = "linux")]
mod support;

fn main() {
    #[cfg(target_os = "linux")]
    measured::main();
    #[cfg(not(target_os = "linux"))]
    println!("worker processes need Linux");
}
