//! What a run was measured on.

use serde_json::{Value, json};

/// Processor, cores, memory, system, compiler and load.
pub fn describe() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let said = |program: &str, argument: &str| {
        let output = std::process::Command::new(program).arg(argument).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let processor = read("/proc/cpuinfo");
    json!({
        "processor": field(&processor, "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cache_of_a_core": field(&processor, "cache size"),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "system": format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
        "compiler": said("rustc", "--version"),
        "node": said("node", "--version"),
        "python": said("python3", "--version"),
        "load_at_start": read("/proc/loadavg").split_whitespace().next(),
    })
}
