//! The price of an option by Monte Carlo, checked against the formula of Black and Scholes: the same digits for any number of workers.
//!
//! Run with `cargo run --release --example risk`.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use workring::bytemuck::{Pod, Zeroable};
use workring::{Chunking, Context, Engine, kernel, kernels};

/// A European call on a share, and how its price moves.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Call {
    spot: f64,
    strike: f64,
    rate: f64,
    volatility: f64,
    years: f64,
    seed: u64,
}

/// What the call pays at its end, discounted, in as many futures as there are elements.
#[kernel]
fn payoffs(payoff: &mut [f64], call: &Call, ctx: &mut Context) {
    // A stream of numbers for each chunk, so that it does not matter which worker runs it, nor when.
    let mut random = ChaCha8Rng::seed_from_u64(call.seed);
    random.set_stream(ctx.chunk_index() as u64);
    let drift = (call.rate - call.volatility * call.volatility / 2.0) * call.years;
    let spread = call.volatility * call.years.sqrt();
    let discount = (-call.rate * call.years).exp();
    for payoff in payoff {
        let normal: f64 = StandardNormal.sample(&mut random);
        let price = call.spot * (drift + spread * normal).exp();
        *payoff = discount * (price - call.strike).max(0.0);
    }
}

/// What the formula says.
fn black_scholes(call: &Call) -> f64 {
    let normal = |x: f64| libm::erfc(-x / std::f64::consts::SQRT_2) / 2.0;
    let spread = call.volatility * call.years.sqrt();
    let first = ((call.spot / call.strike).ln() + call.rate * call.years) / spread + spread / 2.0;
    call.spot * normal(first) - call.strike * (-call.rate * call.years).exp() * normal(first - spread)
}

fn main() -> workring::Result<()> {
    const FUTURES: usize = 4_000_000;
    let call = Call { spot: 100.0, strike: 105.0, rate: 0.03, volatility: 0.2, years: 1.0, seed: 20_260_101 };
    let mut seen = Vec::new();
    for workers in [1, 2, 3] {
        let engine = Engine::builder().threads(workers).build()?;
        let mut payoff = engine.batch::<f64>(FUTURES)?;
        // Chunks of a fixed length: each has its stream of random numbers.
        engine.map_chunks(payoffs, (), &mut payoff, &call, Chunking::of(1 << 16))?;
        let stats = engine.reduce(kernels::f64::stats, &payoff)?;
        let error = stats.standard_deviation() / (FUTURES as f64).sqrt();
        println!("{workers} workers: {:.6} +- {error:.6}", stats.mean());
        seen.push((stats.mean(), error));
    }
    let exact = black_scholes(&call);
    let (price, error) = seen[0];
    println!("the formula: {exact:.6}");
    assert!((price - exact).abs() < 4.0 * error);
    assert!(seen.iter().all(|other| other.0.to_bits() == price.to_bits()), "the same bits for any number of workers");
    Ok(())
}
