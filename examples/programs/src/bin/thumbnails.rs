//! Thumbnails of pictures that strangers send: decoded, shrunk and encoded in worker processes, which may crash.
//!
//! What a pool of workers with sharp or jimp is in the Node world. A picture that makes the decoder take too much memory ends that
//! process there, and with it whatever else it was at. Here it ends one worker, whose job fails, and whose successor goes on.
//!
//! `cargo run --release --bin thumbnails -- FILE..` writes a thumbnail beside each picture. Without arguments the program checks what
//! becomes of the photographs in the books that come with Rust's documentation, where that is installed, and of pictures of its own
//! making, with the gradients, edges and noise of a photograph.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, RgbImage};
use workring::{Context, Engine, Error, kernel, kernels, process::WorkerProgram};

/// The longer side of a thumbnail.
const SIDE: u32 = 160;

/// Bytes that no thumbnail of this side exceeds.
const THUMBNAIL_MAX: usize = 64 << 10;

/// A small picture, as JPEG, of the picture in a file.
#[kernel]
fn shrink(file: &[u8], small: &mut [u8], side: &u32, ctx: &mut Context) -> image::ImageResult<()> {
    let picture = ImageReader::new(Cursor::new(file)).with_guessed_format()?.decode()?;
    let mut out = Cursor::new(small);
    picture.thumbnail(*side, *side).to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut out, 85))?;
    ctx.set_output_len(0, out.position() as usize);
    Ok(())
}

/// Something like a landscape: a sky that grows lighter, hills before it, grain.
fn landscape(number: u32, width: u32, height: u32) -> RgbImage {
    let mut grain = number;
    RgbImage::from_fn(width, height, |x, y| {
        grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        let hill = |scale: f32, shift: f32| ((x * scale + number as f32 + shift).sin() + 1.0) * 0.12;
        let light = if y > 0.85 - hill(5.0, 0.0) {
            [40.0, 90.0 + 60.0 * y, 30.0]
        } else if y > 0.6 - hill(9.0, 2.0) {
            [90.0, 110.0, 130.0]
        } else {
            [90.0 + 120.0 * y, 140.0 + 80.0 * y, 230.0]
        };
        image::Rgb(light.map(|light| light as u8 + (grain >> 28) as u8))
    })
}

/// The photographs in the documentation of the installed Rust: `rustup component add rust-docs` brings them.
fn photographs() -> Vec<Vec<u8>> {
    let root =
        Command::new("rustc").args(["--print", "sysroot"]).output().map(|output| output.stdout).unwrap_or_default();
    let books = Path::new(String::from_utf8_lossy(&root).trim()).join("share/doc/rust/html/embedded-book/assets");
    ["f3.jpg", "verify.jpeg"].iter().filter_map(|name| std::fs::read(books.join(name)).ok()).collect()
}

/// The mean of each colour.
fn colour(picture: &RgbImage) -> [f64; 3] {
    let pixels = f64::from(picture.width() * picture.height());
    [0, 1, 2].map(|channel| picture.pixels().map(|pixel| f64::from(pixel.0[channel])).sum::<f64>() / pixels)
}

/// The beginning of a PNG file that says it has 12000 x 12000 pixels: 432 MB, less than the decoder's own limit.
fn bomb() -> Vec<u8> {
    let header = *b"IHDR\0\0\x2E\xE0\0\0\x2E\xE0\x08\x02\0\0\0";
    let mut checksum = flate2::Crc::new();
    checksum.update(&header);
    [b"\x89PNG\r\n\x1A\n\0\0\0\x0D", &header[..], &checksum.sum().to_be_bytes(), b"\0\0\0\x10IDAT\x78\x01"].concat()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    workring::worker_entry(kernels![shrink]);
    let program = WorkerProgram::this().memory_limit(256 << 20);
    let engine = Engine::builder().processes(2).kernels(kernels![shrink]).worker_program(program).build()?;
    let submit = |file: &[u8]| -> workring::Result<_> {
        let batches = (engine.batch_from_slice(file)?, engine.batch::<u8>(THUMBNAIL_MAX)?);
        Ok(engine.job().deadline(Duration::from_secs(10)).submit(shrink, batches, SIDE)?)
    };
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let jobs = paths.iter().map(|path| Ok((path, submit(&std::fs::read(path)?)?)));
    for (path, job) in jobs.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()? {
        match job.wait() {
            Ok((_, small)) => std::fs::write(Path::new(path).with_extension("thumbnail.jpg"), &small[..])?,
            Err(failed) => eprintln!("{path}: {}", failed.error),
        }
    }
    if !paths.is_empty() {
        return Ok(());
    }

    let mut files = photographs();
    println!("{} photographs, and pictures of its own making", files.len());
    for (number, (wide, high)) in (0..).zip([(1600, 1200), (1200, 1600), (1920, 1080), (100, 80)]) {
        let mut file = Vec::new();
        landscape(number, wide, high).write_with_encoder(JpegEncoder::new_with_quality(&mut file, 90))?;
        files.push(file);
    }
    let start = Instant::now();
    let jobs = files.iter().map(|file| submit(file)).collect::<Result<Vec<_>, _>>()?;
    let small = jobs.into_iter().map(|job| Ok(job.wait()?.1)).collect::<workring::Result<Vec<_>>>()?;
    println!("{} thumbnails in {:?}", small.len(), start.elapsed());
    for (file, small) in files.iter().zip(&small) {
        let (picture, small) = (image::load_from_memory(file)?.to_rgb8(), image::load_from_memory(small)?.to_rgb8());
        let (wide, high) = picture.dimensions();
        let ratio = f64::from(small.width() * high) / f64::from(small.height() * wide);
        assert!(small.width().max(small.height()) == SIDE && (ratio - 1.0).abs() < 0.02, "{:?}", small.dimensions());
        let differs = colour(&picture).into_iter().zip(colour(&small)).any(|(was, is)| (was - is).abs() > 2.0);
        assert!(!differs, "{:?} became {:?}", colour(&picture), colour(&small));
    }

    // What is no picture is an error of its own job. What is too large ends a worker, and the next picture finds its successor.
    for file in [b"no picture", &[][..], &files[files.len() - 1][..300]] {
        let failed = submit(file)?.wait().unwrap_err();
        assert!(matches!(failed.error, Error::KernelFailed { .. }), "{}", failed.error);
        assert_eq!(&failed.returned.0[..], file, "it comes back");
    }
    let failed = submit(&bomb())?.wait().unwrap_err();
    assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
    println!("{}", failed.error);
    for file in &files {
        assert!(!submit(file)?.wait()?.1.is_empty());
    }
    Ok(())
}
