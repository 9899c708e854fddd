//! Hashes of passwords, which are slow on purpose, beside a program that stays responsive.
//!
//! What `argon2` or `bcrypt` on Node's thread pool are in the Node world: there four threads serve files, names and passwords alike,
//! and sixteen logins hold up everything else. Here the workers are the program's own, their queue is bounded, and a login
//! that takes too long ends with an error instead of a longer queue.
//!
//! Run with `cargo run --release --bin passwords`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use workring::{Batch, Context, Engine, Error, SharedBatch, WaitPolicy, kernel};

/// Room for a hash as text.
const HASH_MAX: usize = 128;

/// What hashing costs: KiB of memory, passes over it, lanes. These are what OWASP recommends.
const USUAL: [u32; 3] = [19 * 1024, 2, 1];

/// The hash of a password as text, with its salt and its cost. The password is wiped, which is why it is an output.
#[kernel]
fn hash_password(
    salt: &[u8],
    password: &mut [u8],
    text: &mut [u8],
    cost: &[u32; 3],
    ctx: &mut Context,
) -> Result<(), String> {
    let params = Params::new(cost[0], cost[1], cost[2], None).map_err(|error| error.to_string())?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hashed: Result<PasswordHash, _> = argon2.hash_password_with_salt(password, salt);
    password.fill(0);
    let hashed = hashed.map_err(|error| error.to_string())?.to_string();
    text.get_mut(..hashed.len()).ok_or("the hash is too long")?.copy_from_slice(hashed.as_bytes());
    ctx.set_output_len(1, hashed.len());
    Ok(())
}

/// Whether a password has this hash. It is wiped.
#[kernel]
fn verify_password(text: &[u8], password: &mut [u8], is_right: &mut [u8]) -> Result<(), String> {
    let text = str::from_utf8(text).map_err(|error| error.to_string())?;
    let hash = PasswordHash::new(text).map_err(|error| error.to_string())?;
    is_right[0] = Argon2::default().verify_password(password, &hash).is_ok().into();
    password.fill(0);
    Ok(())
}
/// A password or a salt on its way to a worker.
fn batch(engine: &Engine, text: &str) -> workring::Result<Batch<u8>> {
    engine.batch_from_slice(text.as_bytes())
}

/// Has passwords checked at once, each against its hash, and says which are right, in order.
fn log_in(engine: &Engine, hashes: &[SharedBatch<u8>], passwords: &[&str]) -> workring::Result<Vec<bool>> {
    let jobs = hashes.iter().zip(passwords).map(|(hash, password)| {
        Ok(engine.submit(verify_password, (hash.clone(), batch(engine, password)?, engine.batch(1)?), ())?)
    });
    let jobs = jobs.collect::<workring::Result<Vec<_>>>()?;
    jobs.into_iter().map(|job| Ok(job.wait()?.2[0] == 1)).collect()
}

fn main() -> workring::Result<()> {
    // Waiting threads do not help: the program's own thread shall stay free.
    let engine = Engine::builder().threads(2).wait_policy(WaitPolicy::Never).queue_capacity(64).build()?;

    // What the reference implementation of Argon2 says, to the letter.
    const KNOWN: &str = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let batches = (batch(&engine, "somesalt")?, batch(&engine, "password")?, engine.batch(HASH_MAX)?);
    let (_, password, text) = engine.submit(hash_password, batches, [65_536, 2, 1])?.wait()?;
    assert_eq!(str::from_utf8(&text), Ok(KNOWN));
    assert_eq!(*password, [0; 8], "nobody finds it in memory later");

    // Everybody signs up at once; this thread goes on with what it has to do every millisecond.
    let people = ["ada", "grace", "edsger", "barbara", "donald", "frances", "tony", "radia"];
    let (start, mut ticks, mut signed_up) = (Instant::now(), 0, engine.job_set()?);
    for name in people {
        // In life the salt comes from the system's random numbers.
        let batches = (batch(&engine, &format!("salt of {name}"))?, batch(&engine, &secret(name))?);
        let batches = (batches.0, batches.1, engine.batch(HASH_MAX)?);
        signed_up.insert(name, engine.submit(hash_password, batches, USUAL)?);
    }
    let mut hashes = HashMap::new();
    while hashes.len() < people.len() {
        while let Some((name, done)) = signed_up.try_next() {
            hashes.insert(name, done?.2.freeze());
        }
        std::thread::sleep(Duration::from_millis(1));
        ticks += 1;
    }
    println!("{} hashes in {:?}, with {ticks} ticks in between", hashes.len(), start.elapsed());

    // And logs in: with the right password, and with another's.
    let hashes = people.map(|name| hashes[name].clone());
    let right = people.map(secret);
    let wrong = people.map(|name| secret(name).to_uppercase());
    assert_eq!(log_in(&engine, &hashes, &right.each_ref().map(String::as_str))?, [true; 8]);
    assert_eq!(log_in(&engine, &hashes, &wrong.each_ref().map(String::as_str))?, [false; 8]);

    // A hash that is none is an error of that job alone.
    let broken = engine.batch_from_slice(b"$argon2id$v=19$what?")?.freeze();
    assert!(matches!(log_in(&engine, &[broken], &["x"]), Err(Error::KernelFailed { .. })));
    Ok(())
}

fn secret(name: &str) -> String {
    format!("the password of {name}")
}
