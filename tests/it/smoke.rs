use workring::{Engine, kernel, reducer};

kernel! {
    pub fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
        for (y, x) in y.iter_mut().zip(x) { *y = p[0] * x + p[1]; }
    }
    pub fn double(y: &mut [u64]) { for v in y { *v *= 2; } }
    pub fn boom(y: &mut [u64]) { if y[0] == 3 { panic!("three is too many"); } y[0] += 1; }
    pub fn tiny(y: &mut [u64], p: &u64) { y[0] = p + 1; }
}
reducer! {
    pub fn sum(x: &[f64]) -> f64 { x.iter().sum() }
    combine(a, b) { a + b }
}

#[test]
fn everything_once() {
    let engine = Engine::builder().threads(2).build().unwrap();
    let x = engine.batch_from_fn(1_000_000, |i| i as f64).unwrap();
    let mut y = engine.batch::<f64>(1_000_000).unwrap();
    engine.map(affine, &x, &mut y, &[2.0, 1.0]).unwrap();
    assert!(y.iter().enumerate().all(|(i, v)| *v == 2.0 * i as f64 + 1.0));
    let total = engine.reduce(sum, &y).unwrap();
    assert_eq!(total, 1e12);
    let job = engine.submit(double, engine.batch_from_slice(&[1u64, 2]).unwrap(), ()).unwrap();
    assert_eq!(*job.wait().unwrap(), [2, 4]);
    let failed = engine.submit(boom, engine.batch_from_slice(&[3u64]).unwrap(), ()).unwrap().wait().unwrap_err();
    println!("{failed}");
    assert_eq!(*failed.returned, [3]);
    assert_eq!(engine.run(|| "hello".to_owned()).unwrap().wait().unwrap(), "hello");
    let params = engine.batch_from_fn(10_000, |i| i as u64).unwrap();
    let many = engine.submit_many(tiny, engine.batch::<u64>(10_000).unwrap(), params).unwrap().wait().unwrap();
    assert!(many.batches.iter().enumerate().all(|(i, v)| *v == i as u64 + 1));
    drop((x, y, many, failed));
    assert_eq!(engine.statistics().arena.in_use, 0);
    engine.close(std::time::Duration::from_secs(5)).unwrap();
}
