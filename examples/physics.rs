//! A star and a thousand bodies around it, each drawn by all others; the energy stays what it was.
//!
//! Run with `cargo run --release --example physics`.

use workring::{Chunking, Engine};

#[derive(Clone, Copy)]
struct Body {
    place: [f64; 3],
    speed: [f64; 3],
    mass: f64,
}

/// Softens what happens when two come close.
const SOFT: f64 = 1e-4;
const STEP: f64 = 1e-3;
const STEPS: usize = 100;

fn square(x: [f64; 3]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

fn between(from: &Body, to: &Body) -> [f64; 3] {
    std::array::from_fn(|axis| to.place[axis] - from.place[axis])
}

/// The pull of all bodies on one.
fn pull(all: &[Body], on: &Body) -> [f64; 3] {
    all.iter().fold([0.0; 3], |sum, body| {
        let way = between(on, body);
        let distance = square(way) + SOFT;
        let strength = body.mass / (distance * distance.sqrt());
        std::array::from_fn(|axis| sum[axis] + strength * way[axis])
    })
}

/// Kinetic and potential energy of everything, on all workers.
fn energy(engine: &Engine, bodies: &[Body]) -> workring::Result<f64> {
    let of_part = |part: &[Body]| {
        let one = |body: &Body| {
            let pairs: f64 = bodies.iter().map(|other| other.mass / (square(between(body, other)) + SOFT).sqrt()).sum();
            // Each pair is met twice, and every body meets itself.
            body.mass * (square(body.speed) - (pairs - body.mass / SOFT.sqrt())) / 2.0
        };
        part.iter().map(one).sum::<f64>()
    };
    engine.reduce_with(bodies, of_part, |left, right| left + right)
}

fn simulate(workers: usize) -> workring::Result<(f64, f64)> {
    let engine = Engine::builder().threads(workers).build()?;
    let star = Body { place: [0.0; 3], speed: [0.0; 3], mass: 1.0 };
    let around = (1..=1000).map(|number| {
        let (angle, distance) = (f64::from(number) * 2.399_963, 0.5 + f64::from(number) / 1000.0);
        let (sin, cos) = angle.sin_cos();
        let speed = distance.powf(-0.5);
        Body {
            place: [distance * cos, distance * sin, 0.01 * (5.0 * angle).sin()],
            speed: [-speed * sin, speed * cos, 0.0],
            mass: 1e-6,
        }
    });
    let mut bodies: Vec<Body> = std::iter::once(star).chain(around).collect();
    let before = energy(&engine, &bodies)?;
    let mut pulls: Vec<[f64; 3]> = bodies.iter().map(|body| pull(&bodies, body)).collect();
    // Small pieces: a thousand bodies are little work for a whole machine.
    let pieces = Chunking::of(64);
    for _ in 0..STEPS {
        // Half a kick, a drift, and, when everything has moved, the other half of the kick (leapfrog).
        for (body, pull) in bodies.iter_mut().zip(&pulls) {
            body.speed = std::array::from_fn(|axis| body.speed[axis] + STEP / 2.0 * pull[axis]);
            body.place = std::array::from_fn(|axis| body.place[axis] + STEP * body.speed[axis]);
        }
        let all = &bodies;
        engine.for_each_chunk(&mut pulls, pieces, |first, pulls| {
            for (at, pulled) in pulls.iter_mut().enumerate() {
                *pulled = pull(all, &all[first + at]);
            }
        })?;
        for (body, pull) in bodies.iter_mut().zip(&pulls) {
            body.speed = std::array::from_fn(|axis| body.speed[axis] + STEP / 2.0 * pull[axis]);
        }
    }
    Ok((before, energy(&engine, &bodies)?))
}

fn main() -> workring::Result<()> {
    let (before, after) = simulate(1)?;
    println!("energy before {before:.9}, after {STEPS} steps {after:.9}");
    assert!(before < 0.0 && ((after - before) / before).abs() < 1e-6);
    for workers in [2, 3] {
        assert_eq!(simulate(workers)?, (before, after), "the same bits with {workers} workers");
    }
    Ok(())
}
