//! Gathers and scatters beside serial loops, for engines of threads and of processes.

use proptest::prelude::*;
use workring::{Engine, Error, kernels, kernels::IndexType, kernels::KernelInfo};

/// What engines with processes have to know.
pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    kernels![
        kernels::f64::gather,
        kernels::f64::gather_u64,
        kernels::f64::scatter,
        kernels::f64::scatter_u64,
        kernels::u32::sort_places,
        kernels::u64::sort_places,
    ]
    .to_vec()
}

/// One call of each.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    len: usize,
    places: usize,
    /// Indices lie below it, so that few of them occur often.
    spread: usize,
    /// An index that is that of no element, and where it is.
    beyond: Option<(usize, u32)>,
    seed: u64,
}

pub(crate) fn cases_of_calls() -> impl Strategy<Value = Case> {
    let len = prop_oneof![0..3_usize, 0..300_usize, 8190..8200_usize, 0..70_000_usize];
    let places = prop_oneof![1..3_usize, 1..3000_usize, 1..400_000_usize];
    let spread = prop_oneof![Just(usize::MAX), 1..5_usize, 1..2000_usize];
    let beyond = prop::option::weighted(0.3, (0..70_000_usize, any::<u32>()));
    (len, places, spread, beyond, any::<u64>()).prop_map(|(len, places, spread, beyond, seed)| Case {
        len,
        places,
        spread,
        beyond: beyond.filter(|_| len > 0).map(|(at, by)| (at % len, by)),
        seed,
    })
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

impl Case {
    fn number(&self, at: usize) -> u64 {
        let z = (at as u64 ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (z ^ z >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(27)
    }

    /// The indices, one of which may be bad, and the first that is.
    fn indices(&self) -> (Vec<u32>, Option<usize>) {
        let below = self.spread.min(self.places) as u64;
        let mut indices: Vec<u32> = (0..self.len).map(|at| (self.number(at) % below) as u32).collect();
        if let Some((at, by)) = self.beyond {
            indices[at] = (self.places as u32).saturating_add(by);
            // Another one behind it, in another chunk most often, is not the first.
            let later = at + (self.len - at) / 2;
            indices[later] = u32::MAX;
        }
        (indices, self.beyond.map(|(at, _)| at))
    }

    /// Whether an error is the one that the call has to give.
    fn is_named(&self, found: &Error, indices: &[u32], first: usize) -> bool {
        let wanted = (u64::from(indices[first]), first as u64, self.places as u64);
        matches!(found, Error::IndexOutOfBounds { index, position, len } if (*index, *position, *len) == wanted)
    }

    /// Batches of numbers, on workers of every kind.
    pub(crate) fn check_batches<I: IndexType>(
        &self,
        engine: &Engine,
        index: impl Fn(u32) -> I,
    ) -> Result<(), TestCaseError>
    where
        f64: kernels::IndexedElement<I>,
    {
        let (numbers, first) = self.indices();
        let indices = engine.batch_from_fn(self.len, |at| index(numbers[at])).unwrap();
        let source: Vec<f64> = (0..self.places).map(|at| self.number(at + 5) as f64 * 1e-9).collect();
        let sources = engine.batch_from_slice(&source).unwrap().freeze();
        let mut gathered = engine.batch_uninit::<f64>(self.len).unwrap().fill(-1.0);
        let result = engine.gather_batch(&sources, &indices, &mut gathered);
        let twin: Vec<f64> = numbers.iter().map(|&at| source.get(at as usize).copied().unwrap_or(-1.0)).collect();
        prop_assert_eq!(bits(&gathered), bits(&twin), "gathered: {:?}", result);
        prop_assert_eq!(result.is_ok(), first.is_none(), "{:?}", result);
        if let (Err(error), Some(first)) = (&result, first) {
            prop_assert!(self.is_named(error, &numbers, first), "{}", error);
        }

        let value = |at: usize| self.number(at + 11) as f64 * 1e-12 - 9e6;
        let values = engine.batch_from_fn(self.len, value).unwrap();
        for adds in [false, true] {
            let mut output = engine.batch_from_slice(&source).unwrap();
            let mut twin = source.clone();
            let result = match adds {
                false => engine.scatter_batch(&values, &indices, &mut output),
                true => engine.scatter_add_batch(&values, &indices, &mut output),
            };
            match (result, first) {
                (Ok(()), None) => {
                    for (at, &index) in numbers.iter().enumerate() {
                        let place = &mut twin[index as usize];
                        *place = if adds { *place + value(at) } else { value(at) };
                    }
                }
                (Err(error), Some(first)) => prop_assert!(self.is_named(&error, &numbers, first), "{}", error),
                (result, first) => prop_assert!(false, "{:?} with a bad index at {:?}", result, first),
            }
            prop_assert_eq!(bits(&output), bits(&twin), "scattered, adds: {}", adds);
        }

        let mut longer = engine.batch::<f64>(self.len + 1).unwrap();
        let refused = engine.gather_batch(&sources, &indices, &mut longer);
        let refused_too = engine.scatter_batch(&longer, &indices, &mut gathered);
        let are_refused =
            [refused, refused_too].iter().all(|refused| matches!(refused, Err(Error::LengthMismatch { .. })));
        prop_assert!(are_refused);
        Ok(())
    }

    /// Slices of any elements, on engines with threads.
    pub(crate) fn check_slices(&self, engine: &Engine) -> Result<(), TestCaseError> {
        let (numbers, first) = self.indices();
        let indices: Vec<usize> = numbers.iter().map(|&index| index as usize).collect();
        let source: Vec<(u8, u64)> = (0..self.places).map(|at| (at as u8, self.number(at))).collect();
        let mut gathered = vec![(9, 9); self.len];
        let result = engine.gather(&source, &indices, &mut gathered);
        let twin: Vec<_> = indices.iter().map(|&at| source.get(at).copied().unwrap_or((9, 9))).collect();
        prop_assert_eq!(&gathered, &twin);
        prop_assert_eq!(result.is_ok(), first.is_none());

        // Values that do not commute, of elements that are no plain data.
        let values: Vec<u32> = (0..self.len as u32).collect();
        let mut output: Vec<Vec<u32>> = vec![vec![7]; self.places];
        let mut twin = output.clone();
        let result = engine.scatter_with(&values, &numbers, &mut output, |all, value| all.push(*value));
        match (result, first) {
            (Ok(()), None) => numbers.iter().zip(&values).for_each(|(&index, value)| twin[index as usize].push(*value)),
            (Err(error), Some(first)) => prop_assert!(self.is_named(&error, &numbers, first), "{}", error),
            (result, first) => prop_assert!(false, "{:?} with a bad index at {:?}", result, first),
        }
        prop_assert!(output == twin, "in the order of the values");

        let mut last = vec![None; self.places];
        let mut twin = last.clone();
        let some: Vec<Option<u32>> = values.iter().copied().map(Some).collect();
        if engine.scatter(&some, &indices, &mut last).is_ok() {
            indices.iter().zip(&some).for_each(|(&index, value)| twin[index] = *value);
        }
        prop_assert!(last == twin, "the last value stays");
        Ok(())
    }
}
