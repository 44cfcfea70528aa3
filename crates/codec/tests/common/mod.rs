//! Inputs for the tests: layouts, bindings, and values that look like what training makes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use brigade_codec::{Binding, CodeBits, CodecConfig, DeltaBinding, Layout, Update, compress};

pub const BITS: [CodeBits; 4] = [CodeBits::One, CodeBits::Two, CodeBits::Three, CodeBits::Four];

pub fn layout(shapes: &[&[usize]]) -> Layout {
    Layout::new(shapes.iter().enumerate().map(|(i, shape)| (format!("t{i}"), shape.to_vec()))).unwrap()
}

pub fn config(top_k: u32, bits: CodeBits) -> CodecConfig {
    CodecConfig { top_k, bits, error_feedback_decay: 0.95 }
}

pub fn binding(peer: u8) -> Binding {
    Binding { run: [1; 32], window: 7, peer: [peer; 32], start_state_root: [3; 32] }
}

pub fn delta_binding() -> DeltaBinding {
    DeltaBinding { run: [1; 32], window: 7, start_state_root: [3; 32] }
}

/// SplitMix64 (Steele, Lea and Flood): small, and fast enough where dependencies are not optimised.
pub struct Random(pub u64);

impl Random {
    /// Uniform between 0 and 1, both excluded.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

/// A standard normal by Box and Muller.
pub fn normal(rng: &mut Random) -> f32 {
    let (radius, angle) = ((-2.0 * rng.unit().ln()).sqrt(), std::f64::consts::TAU * rng.unit());
    (radius * angle.cos()) as f32
}

/// Normal values; every 4096 of them in a row are multiplied by e^(sigma·z) with a normal z.
pub fn values(layout: &Layout, seed: u64, sigma: f32) -> Vec<Vec<f32>> {
    let mut rng = Random(seed);
    let mut fill = |len| {
        let mut scale = 1.0;
        (0..len)
            .map(|i| {
                if i % 4096 == 0 {
                    scale = (sigma * normal(&mut rng)).exp() * 1e-3;
                }
                scale * normal(&mut rng)
            })
            .collect()
    };
    layout.tensors().iter().map(|tensor| fill(tensor.len())).collect()
}

pub fn slices(tensors: &[Vec<f32>]) -> Vec<&[f32]> {
    tensors.iter().map(Vec::as_slice).collect()
}

/// A parsed update of fresh random values.
pub fn update(layout: &Layout, config: &CodecConfig, peer: u8) -> Update {
    let delta = values(layout, peer.into(), 0.0);
    let bytes = compress(layout, &binding(peer), config, &slices(&delta), &mut layout.zeros()).unwrap();
    Update::parse(bytes, layout, config, &binding(peer)).unwrap()
}
