//! The loops that run over every parameter, or over every kept value, as wide as the processor allows.
//!
//! The only `unsafe` of this crate is here: calling a function that was compiled for instructions which not every
//! processor has. A [`Simd`] other than scalar exists only if [`Simd::all`] has found those instructions, and its
//! fields are private, so the calls are sound. What the functions do is safe code, but for vector loads and stores,
//! gathers and a prefetch: each has its argument beside it, from the length of an array or the width of an index.
//!
//! `elements` goes over all elements, `values` over those that are kept, `shared` finds those that
//! several updates keep, `read` and `write` are the entropy coder.
//!
//! All widths give the same bits: sums run in eight lanes that are part of the format (element i goes to lane i mod 8),
//! and nothing is fused. The tests hold every width that the machine has against the scalar one, here, in `section` and in `reader`.
#![allow(unsafe_code)]

mod elements;
mod read;
mod shared;
#[cfg(test)]
mod tests;
mod values;
mod write;

pub(crate) use elements::SLACK;

use crate::layout::Chunk;
use crate::quantize::{MAX_LEVELS, Ruler};
use elements::fold_body;
use values::{add_rows_body, distances_body, project_body, quantize_body, sum_body, sum_of_squares_body};

/// Columns of a matrix come in multiples of this.
pub(crate) const COLUMNS: usize = 8;

/// Which instructions are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Simd(Width);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Defines a method of [`Simd`] that runs one body, compiled for every width.
macro_rules! for_every_width {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        impl Simd {
            $(#[$doc])*
            #[inline]
            #[allow(clippy::too_many_arguments)]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
                    #[allow(clippy::too_many_arguments)]
                    fn avx2($($arg: $type),*) $(-> $result)? {
                        $body($($arg),*)
                    }
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
                    #[allow(clippy::too_many_arguments)]
                    fn avx512($($arg: $type),*) $(-> $result)? {
                        $body($($arg),*)
                    }
                    match self.0 {
                        // SAFETY: this width exists only where the processor has these instructions.
                        Width::Avx512 => return unsafe { avx512($($arg),*) },
                        // SAFETY: as above.
                        Width::Avx2 => return unsafe { avx2($($arg),*) },
                        Width::Scalar => {}
                    }
                }
                $body($($arg),*)
            }
        }
    };
}

for_every_width! {
    /// `e ← β·e + Δ` over the rows of `chunk`, a copy of the result in `out`, and the bits of its largest magnitude.
    ///
    /// `base` is the flat index of the first element of `e` and `delta`.
    fold = fold_body(chunk: &Chunk, base: usize, beta: f32, delta: &[f32], e: &mut [f32], out: &mut [f32]) -> u32
}

for_every_width! {
    /// The sum of `values`, in eight lanes.
    sum = sum_body(values: &[f32]) -> f64
}

for_every_width! {
    /// The sum of the squares of `values`, in eight lanes.
    sum_of_squares = sum_of_squares_body(values: &[f32]) -> f64
}

for_every_width! {
    /// Σ m·r and Σ r² over the `magnitudes` m, with r the ratio of the level that `ruler` gives m; both in eight lanes.
    project = project_body(magnitudes: &[f32], ruler: Ruler) -> (f64, f64)
}

for_every_width! {
    /// Adds `values[i]` times the beginning of row `positions[i]` of `rows` to `sums`, in f64, one i after the other. Rows have
    /// `width` columns; that and the number of `sums` are multiples of [`COLUMNS`].
    add_rows = add_rows_body(rows: &[f32], width: usize, positions: &[u16], values: &[f32], sums: &mut [f64])
}

for_every_width! {
    /// For each position its distance from the place behind the one before, split into units of 2^`low_bits` and the rest;
    /// with the value's code they make its place in the table and its raw bits.
    distances = distances_body(
        positions: &[u16], codes: &[u8], level_bits: u32, low_bits: u32, tables: &mut [u8], raw: &mut [u8], units: &mut [u16]
    )
}

for_every_width! {
    /// Gives each value its code: how many `thresholds` its magnitude exceeds, and its sign in the highest bit; and
    /// replaces it by that magnitude.
    quantize = quantize_body(
        levels: usize, thresholds: &[f32; MAX_LEVELS], magnitudes: &[f32; MAX_LEVELS], values: &mut [f32], codes: &mut [u8]
    )
}

impl Simd {
    /// The widest that this processor has.
    pub(crate) fn detect() -> Self {
        Self::all().last().copied().unwrap_or(Self(Width::Scalar))
    }

    /// All that this processor has, from the narrowest.
    pub(crate) fn all() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            const ALL: [Simd; 3] = [Simd(Width::Scalar), Simd(Width::Avx2), Simd(Width::Avx512)];
            macro_rules! has {
                ($($feature:tt),*) => { true $(&& std::arch::is_x86_feature_detected!($feature))* };
            }
            let avx2 = has!("avx2", "bmi1", "bmi2", "popcnt");
            let avx512 = avx2 && has!("avx512f", "avx512bw", "avx512dq", "avx512vl");
            &ALL[..1 + usize::from(avx2) + usize::from(avx512)]
        }
        #[cfg(not(target_arch = "x86_64"))]
        &[Simd(Width::Scalar)]
    }
}
