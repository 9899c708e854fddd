//! Many bodies that draw each other: few elements, each of which is much work.
//!
//! The program does not say how long parts are: that few elements can be much work is for the library to find out. On processes a part sees all bodies as its halo,
//! for which the caller has to choose chunks.

use rayon::prelude::*;
use workring::{Chunking, Context, Engine, Retry, kernel};

use crate::questions::suite::{Program, Timed, timed};

const STEP: f64 = 1e-3;
/// Softens what happens when two come close.
const SOFT: f64 = 1e-3;

/// Place and mass.
type Body = [f64; 4];
type Speed = [f64; 3];

/// The speed of a body after a step.
fn drawn(speed: Speed, body: &Body, all: &[Body]) -> Speed {
    let mut pull = [0.0; 3];
    for other in all {
        let way: [f64; 3] = core::array::from_fn(|axis| other[axis] - body[axis]);
        let square = way.iter().map(|way| way * way).sum::<f64>() + SOFT;
        let strength = other[3] / (square * square.sqrt());
        pull = core::array::from_fn(|axis| pull[axis] + strength * way[axis]);
    }
    core::array::from_fn(|axis| speed[axis] + STEP * pull[axis])
}

fn drift(bodies: &mut [Body], speeds: &[Speed]) {
    for (body, speed) in bodies.iter_mut().zip(speeds) {
        (0..3).for_each(|axis| body[axis] += STEP * speed[axis]);
    }
}

fn draw(bodies: &[Body], speeds: &mut [Speed], all: &[Body]) {
    bodies.iter().zip(speeds).for_each(|(body, speed)| *speed = drawn(*speed, body, all));
}

/// [`draw`] for worker processes; the halo is everything.
#[kernel]
pub fn draw_kernel(all: &[[f64; 4]], speeds: &mut [[f64; 3]], ctx: &mut Context) {
    draw(&all[ctx.range()], speeds, all);
}

/// So many bodies for so many steps.
pub struct Bodies {
    steps: usize,
    bodies: Vec<Body>,
    speeds: Vec<Speed>,
    expected: Vec<Body>,
}

impl Bodies {
    pub fn new(count: usize, steps: usize) -> Self {
        let body = |at: usize| {
            let (angle, distance) = (at as f64 * 2.399_963, 0.1 + at as f64 / count as f64);
            [distance * angle.cos(), distance * angle.sin(), 0.1 * (5.0 * angle).sin(), 1.0 / count as f64]
        };
        let bodies: Vec<Body> = (0..count).map(body).collect();
        let speeds = bodies.iter().map(|&[x, y, ..]| [-y, x, 0.0]).collect();
        let mut this = Self { steps, bodies, speeds, expected: Vec::new() };
        (_, this.expected) = this.on_one_thread().expect("no library is asked");
        this
    }

    fn on_vectors(&self, draw: impl Fn(&[Body], &mut Vec<Speed>) -> workring::Result<()>) -> Timed<Vec<Body>> {
        let (mut bodies, mut speeds) = (self.bodies.clone(), self.speeds.clone());
        let (milliseconds, ()) = timed(|| {
            for _ in 0..self.steps {
                draw(&bodies, &mut speeds)?;
                drift(&mut bodies, &speeds);
            }
            Ok(())
        })?;
        Ok((milliseconds, bodies))
    }
}

impl Program for Bodies {
    type Answer = Vec<Body>;

    fn title(&self) -> String {
        format!("n-body, {} bodies, {} steps, parts as the library chooses", self.bodies.len(), self.steps)
    }

    fn on_threads(&self, engine: &Engine) -> Timed<Vec<Body>> {
        self.on_vectors(|bodies, speeds| engine.map_with(bodies, speeds, |part, speeds| draw(part, speeds, bodies)))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<Vec<Body>> {
        let mut bodies = engine.batch_from_slice(&self.bodies)?;
        let mut speeds = engine.batch_from_slice(&self.speeds)?;
        let parts = Chunking::of(64).halo(bodies.len());
        let (milliseconds, ()) = timed(|| {
            for _ in 0..self.steps {
                // Speeds are read and written: a second try would begin with those of the first.
                engine.job().retry(Retry::never()).map_chunks(draw_kernel, &bodies, &mut speeds, &(), parts)?;
                drift(&mut bodies, &speeds);
            }
            Ok(())
        })?;
        Ok((milliseconds, bodies.to_vec()))
    }

    fn on_rayon(&self) -> Timed<Vec<Body>> {
        self.on_vectors(|bodies, speeds| {
            bodies.par_iter().zip(speeds).for_each(|(body, speed)| *speed = drawn(*speed, body, bodies));
            Ok(())
        })
    }

    fn on_one_thread(&self) -> Timed<Vec<Body>> {
        self.on_vectors(|bodies, speeds| {
            draw(bodies, speeds, bodies);
            Ok(())
        })
    }

    /// Each pull is added up in one order, so that the bits are those of one thread.
    fn check(&self, bodies: &Vec<Body>) -> Result<(), String> {
        let wrong = bodies.iter().zip(&self.expected).position(|(body, expected)| body != expected);
        match (wrong, bodies.len() == self.expected.len()) {
            (None, true) => Ok(()),
            (wrong, _) => Err(format!("body {} is elsewhere", wrong.unwrap_or(bodies.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Bodies::new(300, 2), &[|bodies| bodies[299][2] += 1e-9, |bodies| bodies.truncate(100)]);
    }
}
