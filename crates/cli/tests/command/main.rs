//! One binary for all tests of the command as its users see it; a module per promise.
#[cfg(target_os = "linux")]
mod confined;
mod numbers;
#[cfg(target_os = "linux")]
mod processes;
mod results;
mod support;
#[cfg(target_os = "linux")]
mod system;
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "signals and terminals are not tried there"))]
#[path = "../../../../tests/support/time.rs"]
mod time;
