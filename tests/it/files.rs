//! Mapped files: what may be read as a slice is not written meanwhile, by no safe call of this crate in this process.

use std::fs;
use std::io::ErrorKind;
use std::ops::DerefMut;
use std::path::{Path, PathBuf};

use workring::{
    Batch, Context, Engine, Error, SharedArray,
    batch::Backing,
    files::{NpyElement, OutputBatch},
    kernel,
};

use crate::support::{Checked, watched};

#[kernel]
fn twice(x: &[u64], y: &mut [u64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = 2 * x;
    }
}

/// Keeps what is even.
#[kernel]
fn even(x: &[u64], y: &mut [u64], ctx: &mut Context) {
    let mut len = 0;
    for x in x.iter().filter(|x| x.is_multiple_of(2)) {
        y[len] = *x;
        len += 1;
    }
    ctx.set_output_len(0, len);
}

fn refusal<T: NpyElement>(engine: &Engine, path: &Path) -> Option<ErrorKind> {
    match engine.map_file::<T>(path) {
        Ok(_) => None,
        Err(Error::Io { source, .. }) => Some(source.kind()),
        Err(other) => panic!("{}: {other:?}", path.display()),
    }
}

/// Paths of all descriptors of this process that lead to a file of this name.
#[cfg(target_os = "linux")]
fn descriptors_of(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let leads_there = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains(name));
    entries.filter(leads_there).collect()
}

/// `OutputBatch` lent its `&mut Batch`: `mem::swap` kept the writable mapping beyond `commit`, and a `&[u64]` of the committed file
/// changed while it was borrowed. What a result file lends is a slice.
#[test]
fn a_result_file_lends_nothing_but_a_slice() {
    fn slice_of<T>(lends: &mut impl DerefMut<Target = [T]>) -> &mut [T] {
        lends
    }
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bin");
        let engine = Checked::threads(1);
        let mut out: OutputBatch<u64> = engine.create_file(&path, 1000).unwrap();
        slice_of(&mut out).fill(7);
        let mut other = engine.create_file::<u64>(folder.path().join("y.bin"), 1000).unwrap();
        // Whole result files change places; each is still the only one that writes its file, until it is committed.
        std::mem::swap(&mut out, &mut other);
        out.fill(8);
        other.commit().unwrap();
        let shared = engine.map_file::<u64>(&path).unwrap();
        out.fill(9);
        assert!(shared.iter().all(|&element| element == 7));
    });
}

/// A commit that failed, for a full disk say, dropped the result of the whole call.
#[test]
fn a_result_whose_commit_failed_comes_back() {
    watched(|| {
        for (name, durably) in [("x.bin", false), ("x.npy", false), ("y.npy", true)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            let engine = Checked::threads(1);
            let commit = |out: OutputBatch<u64>| if durably { out.commit_durably() } else { out.commit() };
            let mut out = engine.create_file::<u64>(&path, 1000).unwrap();
            out.iter_mut().enumerate().for_each(|(at, element)| *element = at as u64);
            // Shortened by the first attempt, and once more after it.
            out.truncate(900);
            fs::create_dir(&path).unwrap();
            let failed = commit(out).unwrap_err();
            assert!(matches!(&failed.error, Error::Io { .. }), "{}", failed.error);
            let mut out = *failed.returned.expect("the file is not in its place");
            assert!(out.len() == 900 && out.iter().enumerate().all(|(at, &element)| element == at as u64));
            #[cfg(target_os = "linux")]
            for way in descriptors_of(&folder.path().display().to_string()) {
                // It is being written again.
                assert_eq!(refusal::<u64>(&engine, &way), Some(ErrorKind::ResourceBusy), "{}", way.display());
            }
            out.truncate(800);
            engine.map(twice, &engine.batch_from_slice(&[4_u64; 800]).unwrap(), &mut out, &()).unwrap();
            fs::remove_dir(&path).unwrap();
            commit(out).unwrap();
            let shared = engine.map_file::<u64>(&path).unwrap();
            assert!(shared.len() == 800 && shared.iter().all(|&element| element == 8));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        }
    });
}

/// The temporary file of a result has a name, and descriptors have paths: `map_file` of either gave a slice of what the program was
/// still writing.
#[test]
fn a_file_is_not_mapped_for_reading_while_this_process_writes_it() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let (engine, reader) = (Checked::threads(1), Checked::threads(1));
        let path = folder.path().join("unfinished.bin");
        let mut out = engine.create_file::<u64>(&path, 1000).unwrap();
        #[cfg_attr(not(target_os = "linux"), expect(unused_mut))]
        let mut ways: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        #[cfg(target_os = "linux")]
        ways.extend(descriptors_of(&folder.path().display().to_string()));
        assert!(!ways.is_empty());
        for way in &ways {
            assert_eq!(refusal::<u64>(&reader, way), Some(ErrorKind::ResourceBusy), "{}", way.display());
            assert_eq!(refusal::<u8>(&engine, way), Some(ErrorKind::ResourceBusy), "{}", way.display());
        }
        out.fill(3);
        out.commit().unwrap();
        let (first, second) = (reader.map_file::<u64>(&path).unwrap(), engine.map_file::<u64>(&path).unwrap());
        assert!(first.iter().chain(second.iter()).all(|&element| element == 3));
        // A new result takes the name; readers of the old one keep it.
        let mut out = engine.create_file::<u64>(&path, 1000).unwrap();
        out.fill(4);
        out.commit().unwrap();
        assert!(first.iter().chain(second.iter()).all(|&element| element == 3));
        assert!(engine.map_file::<u64>(&path).unwrap().iter().all(|&element| element == 4));
    });
}

/// Shared memory of an engine has a path too, that of its descriptor: mapped as a file, an arena gave slices of everybody's batches,
/// and a shared array slices of what its operations change.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_engines_share_is_no_file() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).capacity(1 << 20).backing(Backing::SharedMemory));
        let mut batch = engine.batch::<u64>(1000).unwrap();
        let array = SharedArray::<u64>::new(1000).unwrap();
        let ways = descriptors_of("memfd:workring");
        assert!(ways.len() >= 2, "{ways:?}");
        for way in &ways {
            let answer = refusal::<u8>(&engine, way);
            // Another test's may be gone meanwhile.
            assert!(matches!(answer, Some(ErrorKind::ResourceBusy | ErrorKind::NotFound)), "{}", way.display());
        }
        batch.fill(1);
        array.fill(1);
    });
}

/// A result file is an output of every call, by reference and by value, and an input, without its batch being lent.
#[test]
fn result_files_are_arguments_of_calls() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let engine = Checked::threads(2);
        let x = engine.batch_from_fn(100_000, |index| index as u64).unwrap().freeze();
        for name in ["y.npy", "y.bin"] {
            let path = folder.path().join(name);
            let mut out = engine.create_file::<u64>(&path, x.len()).unwrap();
            engine.map(twice, &x, &mut out, &()).unwrap();
            let mut again: Batch<u64> = engine.batch(x.len()).unwrap();
            engine.map(twice, &out, &mut again, &()).unwrap();
            assert!(again.iter().enumerate().all(|(index, &element)| element == 4 * index as u64));
            engine.map(twice, (&again,), (&mut out,), &()).unwrap();
            let (_, out) = engine.submit(twice, (again, out), ()).unwrap().wait().unwrap();
            out.commit().unwrap();
            let found = engine.map_file::<u64>(&path).unwrap();
            assert!(found.iter().enumerate().all(|(index, &element)| element == 8 * index as u64), "{name}");
        }
    });
}

/// A kernel that says how much of its output it wrote shortened the batch, and the file kept its length, with a tail nobody wrote.
#[test]
fn a_shortened_result_is_a_shorter_file() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let engine = Checked::threads(1);
        let x = engine.batch_from_fn(100_001, |index| index as u64).unwrap().freeze();
        for (name, header) in [("y.npy", 128), ("y.bin", 0)] {
            let path = folder.path().join(name);
            let out = engine.create_file::<u64>(&path, x.len()).unwrap();
            let (_, mut out) = engine.submit(even, (x.clone(), out), ()).unwrap().wait().unwrap();
            assert_eq!(out.len(), 50_001);
            out.truncate(40_000);
            out.truncate(50_000);
            out.commit().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), header + 8 * 40_000);
            let found = engine.map_file::<u64>(&path).unwrap();
            assert!(found.iter().enumerate().all(|(index, &element)| element == 2 * index as u64), "{name}");
            assert_eq!(found.len(), 40_000);
            let mut none = engine.create_file::<u64>(&path, 10).unwrap();
            none.truncate(0);
            none.commit().unwrap();
            assert_eq!(engine.map_file::<u64>(&path).unwrap().len(), 0);
        }
    });
}
