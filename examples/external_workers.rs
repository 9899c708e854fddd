//! Two programs and one engine: the one that has the data listens, the other attaches and works.
//!
//! Run with `cargo run --release --example external_workers`. It starts itself a second time in the other part; in life the two
//! would be started by a shell, a service manager or a container's init.

use std::path::{Path, PathBuf};
use std::process::Command;

use workring::{Engine, kernel, kernels};

/// The square root of each element.
#[kernel]
pub fn root(x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = x.sqrt();
    }
}

/// The process it runs in.
#[kernel]
pub fn whoami(y: &mut [u32]) {
    y.fill(std::process::id());
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args_os().nth(1) {
        Some(path) => work(Path::new(&path)),
        None => own(),
    }
}

/// The program that works.
fn work(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the engine at this path is the other half of this very program.
    let worker = unsafe { workring::process::attach(path, kernels![root, whoami]) }?;
    println!("worker {}: attached", std::process::id());
    // Until the engine closes, or its process ends in any other way.
    let end = worker.serve()?;
    println!("worker {}: {end:?}", std::process::id());
    Ok(())
}

/// The program that has the data.
fn own() -> Result<(), Box<dyn std::error::Error>> {
    let path: PathBuf = std::env::temp_dir().join(format!("workring-example-{}.sock", std::process::id()));
    let engine =
        Engine::builder().threads(0).external_workers(4).listen(&path).kernels(kernels![root, whoami]).build()?;
    let mut workers = (0..2)
        .map(|_| Command::new(std::env::current_exe()?).arg(&path).spawn())
        .collect::<Result<Vec<_>, std::io::Error>>()?;

    // Nobody has attached yet, perhaps: jobs wait.
    let pid = engine.submit(whoami, engine.batch::<u32>(1)?, ())?.wait()?[0];
    assert!(workers.iter().any(|worker| worker.id() == pid));

    // This program ends when it has its roots: the second worker shall not come too late.
    while engine.external_workers() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }

    // All programs map the same memory: nothing is copied, however much it is.
    let x = engine.batch_from_fn(10_000_000, |i| (i * i) as f64)?;
    let mut y = engine.batch::<f64>(x.len())?;
    engine.map(root, &x, &mut y, &())?;
    assert!(y.iter().enumerate().all(|(i, &y)| y == i as f64));
    println!("{} roots from {} workers", y.len(), engine.external_workers());

    engine.close(std::time::Duration::from_secs(10))?;
    for worker in &mut workers {
        assert!(worker.wait()?.success());
    }
    Ok(())
}
