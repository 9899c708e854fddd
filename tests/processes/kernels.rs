//! What the workers of these tests can do, and how they can fail.

use std::time::{Duration, Instant};

use workring::{Context, grid::Grid, kernel, kernels, kernels::KernelInfo, reducer};

unsafe extern "C" {
    /// fork(2).
    fn fork() -> i32;
    /// waitpid(2).
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

/// y[i] = p[0] * x[i] + p[1]
#[kernel]
pub(crate) fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// The mean of the cells above and below in rows of so many; at the ends of the grid the cell itself stands for the one that is not there.
#[kernel]
pub(crate) fn between_rows(old: &[f64], new: &mut [f64], columns: &u64, context: &mut Context) {
    let columns = *columns as usize;
    let old = Grid::new(old, [old.len() / columns, columns]).expect("whole rows");
    let before = context.halo_before() / columns;
    for (row, new) in (before..).zip(new.chunks_mut(columns)) {
        let (before, behind) = (row.saturating_sub(1), (row + 1).min(old.extents()[0] - 1));
        let sides = old.row(before).iter().zip(old.row(behind));
        new.iter_mut().zip(sides).for_each(|(new, (before, behind))| *new = (before + behind) / 2.0);
    }
}

/// As `affine` with 2 and 1, but each chunk takes so many microseconds.
#[kernel]
pub(crate) fn slow_affine(x: &[f64], y: &mut [f64], p: &u64) {
    let until = Instant::now() + Duration::from_micros(*p);
    for (y, x) in y.iter_mut().zip(x) {
        *y = 2.0 * x + 1.0;
    }
    while Instant::now() < until {}
}

/// Adds one to every element in place.
#[kernel]
pub(crate) fn increment(y: &mut [u64]) {
    for value in y {
        *value += 1;
    }
}

/// The process it runs in.
#[kernel]
pub(crate) fn process_id(y: &mut [u32]) {
    y.fill(std::process::id());
}

/// Takes even numbers only.
#[kernel]
pub(crate) fn odd_fails(y: &mut [u64]) -> Result<(), String> {
    match y[0] % 2 {
        0 => Ok(()),
        _ => Err(format!("{} is odd", y[0])),
    }
}

/// Keeps what is below the limit.
#[kernel]
pub(crate) fn below(x: &[u64], y: &mut [u64], limit: &u64, context: &mut Context) {
    let mut kept = 0;
    for &value in x.iter().filter(|&value| value < limit) {
        y[kept] = value;
        kept += 1;
    }
    context.set_output_len(0, kept);
}

/// Writes `p[2]` bytes of numbers that depend on `p[0]` over the engine's bookkeeping, from a place that `p[1]` chooses; ones
/// over the first half of it for the largest `p[1]`.
#[kernel]
pub(crate) fn scribble(y: &mut [u64], p: &[u64; 3]) {
    let [seed, part, bytes] = *p;
    y[0] = 1;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some(line) = maps.lines().find(|line| line.contains("workring-control") && line.contains("rw")) else { return };
    let (range, _) = line.split_once(' ').unwrap_or_default();
    let (from, to) = range.split_once('-').unwrap_or_default();
    let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
    let (from, to) = (number(from) + 4096, number(to));
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let to = if part == u64::MAX { from + (to - from) / 16 * 8 } else { to };
    let begin = match part {
        0 | u64::MAX => from,
        _ => from + (next() as usize % (to - from)) / 8 * 8,
    };
    let end = to.min(begin.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)));
    for address in (begin..end).step_by(8) {
        let word = if part == u64::MAX { u64::MAX } else { next() };
        // SAFETY: none beyond that the words are mapped: it is what this kernel is for.
        unsafe { core::ptr::write_volatile(core::ptr::with_exposed_provenance_mut::<u64>(address), word) };
    }
}

/// Says something on both streams.
#[kernel]
pub(crate) fn talk(y: &mut [u64], p: &u64) {
    println!("said {p}");
    eprintln!("warned {p}");
    y[0] = *p;
}

/// Comes back twice.
#[kernel]
pub(crate) fn forking(y: &mut [u64]) {
    // SAFETY: the child runs nothing but this kernel's end; the worker's other thread sleeps and holds no lock.
    let child = unsafe { fork() };
    y[0] += 1;
    if child > 0 {
        // SAFETY: waits for the child that was just made.
        unsafe { waitpid(child, core::ptr::null_mut(), 0) };
    }
}

/// The process it runs in, after a millisecond.
#[kernel]
pub(crate) fn slow_process_id(y: &mut [u32]) {
    std::thread::sleep(Duration::from_millis(1));
    y.fill(std::process::id());
}

/// Writes 1 and then ends its process: 0 by exit code 3, 1 by abort, 2 by writing where nothing is.
#[kernel]
pub(crate) fn die(y: &mut [u32], how: &u32) {
    y[0] = 1;
    match how {
        0 => std::process::exit(3),
        1 => std::process::abort(),
        // SAFETY: none; the process is meant to end here.
        _ => unsafe { core::ptr::write_volatile(core::ptr::without_provenance_mut::<u32>(8), 1) },
    }
}

/// Writes to its input, which Rust does not allow.
#[kernel]
pub(crate) fn write_input(x: &[u64], y: &mut [u64]) {
    y[0] = x[0];
    // SAFETY: none; the process is meant to end here.
    unsafe { core::ptr::write_volatile(x.as_ptr().cast_mut(), 7) };
    y[0] = 99;
}

/// Writes 1 and then never ends.
#[kernel]
pub(crate) fn hang(y: &mut [u32]) {
    y[0] = 1;
    loop {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends when it is told to, and counts how often it looked.
#[kernel]
pub(crate) fn patient(y: &mut [u64], context: &mut Context) {
    while !context.is_cancelled() {
        y[0] += 1;
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Fails or panics.
#[kernel]
pub(crate) fn fail(y: &mut [u32], panics: &u32) -> Result<(), String> {
    y[0] = 1;
    assert!(*panics == 0, "a panic on purpose");
    Err("an error on purpose".into())
}

/// Allocates so many bytes and touches them.
#[kernel]
pub(crate) fn allocate(y: &mut [u64], p: &u64) {
    let bytes = vec![1_u8; *p as usize];
    y[0] = bytes.iter().map(|&byte| u64::from(byte)).sum();
}

/// What the environment and the system say about the worker: nice value, a variable, descriptors of one file,
/// the folder, cores.
#[kernel]
pub(crate) fn look_around(y: &mut [i64]) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let nice = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)?.parse().ok());
    y[0] = nice.unwrap_or(i64::MAX);
    y[1] = i64::from(std::env::var("WORKRING_TEST").is_ok_and(|value| value == "said"));
    y[2] = std::fs::read_dir("/proc/self/fd").map_or(-1, |entries| {
        let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let noise = std::env::var_os("WORKRING_NOISE").unwrap_or_default();
        links.filter(|link| link.as_os_str() == noise).count() as i64
    });
    y[3] = i64::from(std::env::current_dir().is_ok_and(|folder| folder == std::path::Path::new("/")));
    y[4] = std::thread::available_parallelism().map_or(-1, |cores| cores.get() as i64);
}

/// The sum of numbers whose sum depends on the order of additions.
#[reducer(combine = |left, right| left + right)]
pub(crate) fn sum(x: &[f64]) -> f64 {
    x.iter().sum()
}

/// Every kernel of these tests.
#[expect(non_snake_case, reason = "a constant in all but form")]
pub(crate) fn ALL() -> &'static [&'static KernelInfo] {
    static LISTED: std::sync::OnceLock<Vec<&'static KernelInfo>> = std::sync::OnceLock::new();
    LISTED.get_or_init(|| {
        let mut listed = kernels![
            affine,
            between_rows,
            below,
            slow_affine,
            increment,
            scribble,
            forking,
            talk,
            process_id,
            slow_process_id,
            odd_fails,
            die,
            write_input,
            hang,
            patient,
            fail,
            allocate,
            look_around,
            sum,
            workring::kernels::f64::sum,
            workring::kernels::f64::affine,
            workring::kernels::f32::abs,
            workring::kernels::f64::sort,
            workring::kernels::f64::merge_runs,
        ]
        .to_vec();
        listed.extend(crate::crew::listed());
        listed.extend(crate::descendants::listed());
        listed.extend(crate::names::listed());
        listed.extend(crate::seen::listed());
        listed.extend(crate::shared_array::listed());
        listed.extend(crate::indexing::listed());
        listed.extend(crate::together::listed());
        listed.extend(crate::whole::listed());
        listed.extend(crate::workers::listed());
        #[cfg(feature = "fault")]
        listed.extend(crate::faults::kernels());
        #[cfg(feature = "fault")]
        listed.push(crate::faults::listed());
        listed
    })
}
