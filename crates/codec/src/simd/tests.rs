//! Every width that the machine has, against the scalar one.

use super::*;
use crate::layout::CHUNK;
use proptest::prelude::*;

fn values() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        (-1e3..1e3_f32),
        any::<u32>().prop_map(|bits| f32::from_bits(bits & 0xdfff_ffff)), // below 2^65
        Just(0.0),
        Just(-0.0),
        Just(1.0),
    ];
    prop::collection::vec(value, 0..300)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #[test]
    fn all_widths_agree(values in values(), threshold in any::<u32>(), beta in 0.0..1.0_f32, scale in 1e-3..1e3_f64) {
        let scalar = Simd::all()[0];
        let magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
        let threshold = threshold >> 1;
        for &simd in Simd::all() {
            let (mut expected, mut found) = ([0; 64], [0; 64]);
            scalar.reach(&values, threshold, &mut expected);
            simd.reach(&values, threshold, &mut found);
            prop_assert_eq!(expected, found);
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(found[i / 64] >> (i % 64) & 1 == 1, value.abs().to_bits() >= threshold);
            }
            prop_assert_eq!(scalar.sum(&magnitudes).to_bits(), simd.sum(&magnitudes).to_bits());
            let squares = |simd: Simd| simd.sum_of_squares(&values).to_bits();
            prop_assert_eq!(squares(scalar), squares(simd));
            for (levels, step) in [(1, 0.0), (2, 0.75), (4, 0.5), (8, 0.125)] {
                let per_step = if step > 0.0 { 1.0 / f64::from(step) } else { 256.0 };
                let ruler = Ruler {
                    slope: (per_step / scale) as f32, offset: -per_step as f32, top: (levels - 1) as f32, step,
                };
                prop_assert_eq!(scalar.project(&magnitudes, ruler), simd.project(&magnitudes, ruler));
                let table: [f32; MAX_LEVELS] = std::array::from_fn(|i| scale as f32 * (1.0 + i as f32 * step));
                let thresholds = table.map(|magnitude| magnitude + 0.5 * step);
                let of = |simd: Simd| {
                    let (mut values, mut codes) = (values.clone(), vec![0; values.len()]);
                    simd.quantize(levels, &thresholds, &table, &mut values, &mut codes);
                    (bits(&values), codes)
                };
                prop_assert_eq!(of(scalar), of(simd));
            }
            let positions: Vec<u16> = (0..magnitudes.len()).map(|i| (i * 7 % 10) as u16).collect();
            let rows: Vec<f32> = values.iter().cycle().take(10 * 6 * COLUMNS).copied().collect();
            for blocks in (0..=5).filter(|_| !rows.is_empty()) {
                let of = |simd: Simd| {
                    let mut sums = vec![0.5; blocks * COLUMNS];
                    simd.add_rows(&rows, 6 * COLUMNS, &positions, &values, &mut sums);
                    sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>()
                };
                prop_assert_eq!(of(scalar), of(simd));
            }
            let chunk = Chunk { tensor: 0, base: 5, width: values.len().max(1), stride: 0, len: values.len() };
            let of = |simd: Simd| {
                let (mut e, mut out) = (values.clone(), vec![0.0; values.len()]);
                e.reverse();
                let most = simd.fold(&chunk, 5, beta, &values, &mut e, &mut out);
                prop_assert_eq!(bits(&e), bits(&out));
                Ok((bits(&out), most))
            };
            prop_assert_eq!(of(scalar)?, of(simd)?);
        }
    }
}

proptest! {
    /// Tiles and runs of all widths, what is touched and what is not, NaN and infinity too.
    #[test]
    fn all_widths_fold_the_same(
        width in 1..150_usize, rows in 1..5_usize, gap in 0..9_usize, seed in any::<u64>(), touching in 1..9_u64,
    ) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let chunk = Chunk { tensor: 0, base: 9, width, stride: width + gap, len: width * rows };
        let e: Vec<f32> = (0..5 + rows * (width + gap)).map(|_| f32::from_bits(next() as u32)).collect();
        let sums: Vec<f32> = (0..chunk.len).map(|_| f32::from_bits((next() as u32) << 1)).collect();
        let touched: Vec<u8> = (0..chunk.len).map(|_| u8::from(next() % touching == 0)).collect();
        let mut expected = e.clone();
        let mut places = Vec::new();
        for place in (0..chunk.len).filter(|&place| touched[place] != 0) {
            expected[chunk.index(place) - 5] += sums[place];
            places.push(place as u16);
        }
        let is_nan_in_both = |a: f32, b: f32| a.is_nan() && b.is_nan();
        let values: Vec<f32> = places.iter().map(|&place| expected[chunk.index(place.into()) - 5]).collect();
        let largest = values.iter().map(|value| value.abs().to_bits()).max().unwrap_or(0);
        for &simd in Simd::all() {
            let mut e = e.clone();
            let (mut positions, mut found) = (vec![0; chunk.len + SLACK], vec![0.0; chunk.len + SLACK]);
            let (kept, most) = simd.fold_touched(&chunk, 5, &sums, &touched, &mut e, &mut positions, &mut found);
            prop_assert_eq!(&positions[..kept], &places);
            prop_assert!(found[..kept].iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits() || is_nan_in_both(*a, *b)));
            prop_assert!(e.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits() || is_nan_in_both(*a, *b)));
            prop_assert!(most == largest || most > f32::INFINITY.to_bits() && largest > f32::INFINITY.to_bits());
        }
    }
}

proptest! {
    #[test]
    fn all_widths_pick_the_same(places in prop::collection::vec((0..CHUNK, 0..4_u8), 0..300), others in 0..500_usize) {
        let mut uses = [0_u8; CHUNK];
        (0..others).for_each(|i| uses[i * 131 % CHUNK] = 2 + (i % 254) as u8);
        places.iter().for_each(|&(place, count)| uses[place] = count);
        let mut rows = [7; CHUNK];
        let mut last = 0;
        let expected: Vec<u16> = uses.iter().map(|&n| if n > 1 { last += 1; last } else { 0 }).collect();
        let positions: Vec<u16> = places.iter().map(|&(place, _)| place as u16).collect();
        let values: Vec<f32> = (0..positions.len()).map(|i| i as f32).collect();
        let pairs = || positions.iter().zip(&values).map(|(&at, &value)| (expected[usize::from(at)], value));
        let shared: Vec<(u16, f32)> = pairs().filter(|(row, _)| *row > 0).collect();
        for &simd in Simd::all() {
            prop_assert_eq!(simd.number_shared(&uses, &mut rows), usize::from(last));
            prop_assert_eq!(&rows[..], &expected[..]);
            let room = positions.len() + SLACK;
            let (mut own_rows, mut own) = (vec![0; room], vec![0.0; room]);
            let picked = simd.pick_shared(&rows, &positions, &values, &mut own_rows, &mut own);
            let found: Vec<_> = own_rows[..picked].iter().copied().zip(own[..picked].iter().copied()).collect();
            prop_assert_eq!(&found, &shared);
        }
    }
}

#[test]
fn sums_are_those_of_the_definition() {
    let simd = Simd::detect();
    assert_eq!(simd.sum(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]), 45.0);
    let ruler = Ruler { slope: 4.0, offset: -4.0, top: 3.0, step: 0.25 };
    // Places −4, 0.4, 0.6, 1.5, 9: levels 0, 0, 1, 2, 3.
    let (cross, square) = simd.project(&[0.0, 1.1, 1.15, 1.375, 3.25], ruler);
    let ratios = [1.0, 1.0, 1.25, 1.5, 1.75_f64];
    let magnitudes = [0.0, 1.1_f32, 1.15, 1.375, 3.25];
    let expected: f64 = magnitudes.iter().zip(ratios).map(|(m, r)| f64::from(*m) * r).sum();
    assert!((cross - expected).abs() < 1e-12);
    assert_eq!(square, ratios.iter().map(|r| r * r).sum::<f64>());
}
