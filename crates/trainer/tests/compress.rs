//! The same bytes and the same error feedback as the codec's own compressor, on every device that is there.
#![allow(clippy::unwrap_used)]

use brigade_codec::{Binding, CodeBits, CodecConfig, Layout, Update};
use brigade_trainer::{Error, compress};
use tch::{Device, Kind, Tensor};

const BINDING: Binding = Binding { run: [1; 32], window: 7, peer: [2; 32], start_state_root: [3; 32] };

/// Whole tiles, ragged ones on each side and in the corner, runs, a scalar, sections of one tensor and of several.
fn layout() -> Layout {
    let shapes: [&[usize]; 9] = [
        &[128, 192],
        &[70, 130],
        &[5, 7],
        &[64, 3],
        &[3, 64],
        &[4096 * 2 + 9],
        &[],
        &[2, 3, 50],
        &[2200, 2000],
    ];
    Layout::new(shapes.iter().enumerate().map(|(i, shape)| (format!("t{i}"), shape.to_vec()))).unwrap()
}

/// Values with heavy tails whose size differs from tile to tile; many are equal, some are zero of either sign.
fn values(layout: &Layout, seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (state as i32 >> 24) as f32 / 64.0;
        x * x * x * [1e-3, 1e-7, 0.0, 1e-30][(state >> 3) as usize % 4]
    };
    layout.tensors().iter().map(|tensor| (0..tensor.len()).map(|_| next()).collect()).collect()
}

fn devices() -> Vec<Device> {
    let cuda = (0..tch::Cuda::device_count().min(1)).map(|index| Device::Cuda(index as usize));
    [Device::Cpu].into_iter().chain(cuda).collect()
}

fn tensors(layout: &Layout, values: &[Vec<f32>], device: Device) -> Vec<Tensor> {
    let shape = |tensor: &brigade_codec::Tensor| tensor.shape().iter().map(|&d| d as i64).collect::<Vec<_>>();
    let tensors = layout.tensors().iter().zip(values);
    tensors.map(|(of, values)| Tensor::from_slice(values).view(&shape(of)[..]).to_device(device)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn the_bytes_are_those_of_the_codec() {
    let layout = layout();
    for device in devices() {
        for (bits_of_code, top_k) in [(1, 64), (2, 64), (3, 200), (4, 7), (2, 4096)] {
            let bits_of_code = CodeBits::from_number(bits_of_code).unwrap();
            let config = CodecConfig { top_k, bits: bits_of_code, error_feedback_decay: 0.95 };
            let mut e = values(&layout, 5);
            let mut e_there = e.clone();
            // The second time error feedback is what the first has left.
            for window in 0..2 {
                let (before, after) = (values(&layout, 100 + window), values(&layout, 200 + window));
                let delta: Vec<Vec<f32>> = before
                    .iter()
                    .zip(&after)
                    .map(|(before, after)| before.iter().zip(after).map(|(b, a)| b - a).collect())
                    .collect();
                let slices: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
                let expected = brigade_codec::compress(&layout, &BINDING, &config, &slices, &mut e).unwrap();
                let after = tensors(&layout, &after, device);
                let found = compress(&layout, &BINDING, &config, &before, &after, &mut e_there).unwrap();
                assert!(found == expected, "{device:?}, {config:?}, window {window}");
                Update::parse(found, &layout, &config, &BINDING).unwrap();
                for (i, (there, here)) in e_there.iter().zip(&e).enumerate() {
                    assert!(
                        bits(there) == bits(here),
                        "{device:?}, {config:?}: error feedback of tensor {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_compressed_is_named() {
    let layout = layout();
    let config = CodecConfig { top_k: 64, bits: CodeBits::One, error_feedback_decay: 0.95 };
    for device in devices() {
        let zeros = tensors(&layout, &layout.zeros(), device);
        for bad in [f32::NAN, f32::INFINITY, -2e18] {
            let mut before = values(&layout, 1);
            before[1][4321] = bad;
            let error =
                compress(&layout, &BINDING, &config, &before, &zeros, &mut layout.zeros()).unwrap_err();
            let Error::Codec(brigade_codec::Error::Value { tensor: 1, index: 4321, value, .. }) = error
            else {
                panic!("{error}")
            };
            assert!(value.to_bits() == bad.to_bits() || value.is_nan() && bad.is_nan());
        }
        let refusal = |before: &[Vec<f32>], after: &[Tensor], mut e: Vec<Vec<f32>>| {
            let untouched = e.clone();
            let error = compress(&layout, &BINDING, &config, before, after, &mut e).unwrap_err();
            assert_eq!(e, untouched);
            error
        };
        let (before, e) = (values(&layout, 1), values(&layout, 2));
        let (few, few_after) = (&before[1..], &zeros[1..]);
        assert!(matches!(refusal(few, &zeros, e.clone()), Error::TensorCount { .. }));
        assert!(matches!(refusal(&before, few_after, e.clone()), Error::TensorCount { .. }));
        let mut short = e.clone();
        short[3].truncate(5);
        assert!(matches!(refusal(&before, &zeros, short), Error::TensorLength { .. }));
        let with_first = |first: Tensor| {
            let rest = zeros[1..].iter().map(Tensor::shallow_clone);
            refusal(&before, &[first].into_iter().chain(rest).collect::<Vec<_>>(), e.clone())
        };
        assert!(matches!(with_first(zeros[1].copy()), Error::TensorLength { .. }));
        assert!(matches!(with_first(zeros[0].to_kind(Kind::Half)), Error::Setting { .. }));
        assert!(matches!(with_first(zeros[0].view([192, 128]).tr()), Error::Setting { .. }));
    }
}
