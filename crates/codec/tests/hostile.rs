//! Bytes from a peer that does not mean well.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::LazyLock;

use brigade_codec::{
    Binding, CodeBits, CodecConfig, Delta, DeltaConfig, Error, Layout, Update, compress, max_update_bytes,
    merge,
};
use common::{binding, config, delta_binding, layout, slices, values};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

/// Magic, header length; then the fields up to the number of sections, the sections' entries, and the hash.
const PREFIX: usize = 12;
const FIXED: usize = 149;
const ENTRY: usize = 36;

fn make_small() -> (Layout, CodecConfig, Vec<u8>) {
    let layout = layout(&[&[70, 70], &[100]]);
    let config = config(32, CodeBits::Two);
    let delta = values(&layout, 1, 0.5);
    let bytes = compress(&layout, &binding(2), &config, &slices(&delta), &mut layout.zeros()).unwrap();
    Update::parse(bytes.clone(), &layout, &config, &binding(2)).unwrap();
    (layout, config, bytes)
}

static SMALL: LazyLock<(Layout, CodecConfig, Vec<u8>)> = LazyLock::new(make_small);

fn small() -> (Layout, CodecConfig, Vec<u8>) {
    SMALL.clone()
}

fn parse(bytes: &[u8]) -> Result<Update, Error> {
    let (layout, config, _) = &*SMALL;
    Update::parse(bytes.to_vec(), layout, config, &binding(2))
}

/// Writes fresh hashes over a changed file of one section, as an attacker would.
fn rehash(bytes: &mut [u8]) {
    let header = PREFIX + FIXED + ENTRY;
    let section: [u8; 32] = Sha256::digest(&bytes[header + 32..]).into();
    let len = (bytes.len() - header - 32) as u32;
    bytes[header - ENTRY..header - 32].copy_from_slice(&len.to_le_bytes());
    bytes[header - 32..header].copy_from_slice(&section);
    let frame: [u8; 32] = Sha256::digest(&bytes[..header]).into();
    bytes[header..header + 32].copy_from_slice(&frame);
}

#[test]
fn every_truncation_is_refused() {
    let (_, _, bytes) = small();
    for len in 0..bytes.len() {
        assert!(parse(&bytes[..len]).is_err(), "cut to {len}");
    }
    for extra in [1, 3, 4, 1000] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + extra, 0);
        assert!(
            matches!(parse(&longer), Err(Error::Length { .. } | Error::TooLong { .. })),
            "{extra} trailing bytes"
        );
    }
}

#[test]
fn every_flip_of_a_bit_is_refused() {
    let (_, _, bytes) = small();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(parse(&flipped).is_err(), "byte {at}, bit {bit}");
        }
    }
}

/// With the hashes made right again, the section's own rules stand alone.
#[test]
fn a_flip_under_a_fresh_hash_is_refused_or_decodes_within_the_rules() {
    let (_, config, bytes) = small();
    let section = PREFIX + FIXED + ENTRY + 32;
    let (mut refused, mut total) = (0, 0);
    for at in section..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            rehash(&mut flipped);
            total += 1;
            match parse(&flipped) {
                Err(error) => {
                    assert!(matches!(error, Error::Section { section: 0, .. }), "{error}");
                    refused += 1;
                }
                Ok(update) => {
                    assert!(update.norm().is_finite());
                    assert!(update.kept() <= 64 * u64::from(config.top_k));
                }
            }
        }
    }
    // What is accepted is another honest file: a sign or a step that differs, say.
    assert!(refused * 3 > total * 2, "{refused} of {total} refused");
}

#[test]
fn trailing_words_and_missing_words_under_a_fresh_hash_are_refused() {
    let (_, _, bytes) = small();
    for change in [-8_isize, -4, -1, 1, 4] {
        let mut changed = bytes.clone();
        changed.resize(bytes.len().saturating_add_signed(change), 0);
        rehash(&mut changed);
        let error = parse(&changed).unwrap_err();
        assert!(matches!(error, Error::Section { .. } | Error::TooLong { .. }), "{change}: {error}");
    }
}

#[test]
fn claims_of_enormous_sizes_are_refused_before_they_are_believed() {
    let (layout, config, bytes) = small();
    let mut huge_header = bytes.clone();
    huge_header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(parse(&huge_header), Err(Error::Length { what: "header", .. })));

    // Number of sections, under a fresh hash of the header.
    let reheader = |change: &dyn Fn(&mut [u8])| {
        let mut file = bytes.clone();
        change(&mut file);
        let header = PREFIX + FIXED + ENTRY;
        let frame: [u8; 32] = Sha256::digest(&file[..header]).into();
        file[header..header + 32].copy_from_slice(&frame);
        parse(&file).unwrap_err()
    };
    let count = PREFIX + FIXED - 8..PREFIX + FIXED;
    for claim in [0_u64, 2, 1 << 20, u64::MAX] {
        let error = reheader(&|file| file[count.clone()].copy_from_slice(&claim.to_le_bytes()));
        assert!(matches!(error, Error::Header(_)), "{claim}: {error}");
    }
    let len = PREFIX + FIXED..PREFIX + FIXED + 4;
    let error = reheader(&|file| file[len.clone()].copy_from_slice(&u32::MAX.to_le_bytes()));
    assert!(matches!(error, Error::TooLong { what: "section", .. }), "{error}");

    let limit = max_update_bytes(&layout, &config);
    let error = parse(&vec![0; limit as usize + 1]).unwrap_err();
    assert_eq!(error, Error::TooLong { what: "file", limit, actual: limit + 1 });
}

#[test]
fn a_file_for_something_else_is_refused_by_name() {
    let (layout, config, bytes) = small();
    let good = binding(2);
    let wrong = |binding: Binding, layout: &Layout, config: &CodecConfig| match Update::parse(
        bytes.clone(),
        layout,
        config,
        &binding,
    )
    .unwrap_err()
    {
        Error::Binding { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(wrong(Binding { run: [9; 32], ..good }, &layout, &config), "run");
    assert_eq!(wrong(Binding { window: 8, ..good }, &layout, &config), "window");
    assert_eq!(wrong(Binding { peer: [9; 32], ..good }, &layout, &config), "peer");
    assert_eq!(wrong(Binding { start_state_root: [9; 32], ..good }, &layout, &config), "start state root");
    assert_eq!(wrong(good, &layout, &CodecConfig { top_k: 33, ..config }), "top_k");
    assert_eq!(wrong(good, &layout, &CodecConfig { bits: CodeBits::Three, ..config }), "bits");
    let other = common::layout(&[&[70, 70], &[101]]);
    assert_eq!(wrong(good, &other, &config), "layout");

    let delta = Delta::parse(bytes.clone(), &layout, &DeltaConfig::default(), &delta_binding());
    assert_eq!(delta.unwrap_err(), Error::Magic("delta"));
    let merged = merge(&layout, &delta_binding(), &DeltaConfig::default(), &[], &mut layout.zeros()).unwrap();
    assert_eq!(parse(&merged).unwrap_err(), Error::Magic("update"));
}

#[test]
fn impossible_preambles_are_refused() {
    let (_, _, bytes) = small();
    let section = PREFIX + FIXED + ENTRY + 32;
    // The step, the low bits of distances, then the table of scales: its last symbol and their shares.
    let step = |value: u16| vec![(0, value as u8), (1, (value >> 8) as u8)];
    assert!((1..=4096).contains(&u16::from_le_bytes([bytes[section], bytes[section + 1]])));
    let changes = [
        (step(0), "the step is out of range"),
        (step(4097), "the step is out of range"),
        (step(u16::MAX), "the step is out of range"),
        (vec![(2, 8)], "the low bits of distances are too many"),
        (vec![(2, 255)], "the low bits of distances are too many"),
        (vec![(3, 16)], "a table has too many symbols"),
        (vec![(4, bytes[section + 4] ^ 1)], "the shares of a table do not add up"),
    ];
    for (change, expected) in changes {
        let mut changed = bytes.clone();
        change.iter().for_each(|&(at, byte)| changed[section + at] = byte);
        rehash(&mut changed);
        assert_eq!(parse(&changed).unwrap_err(), Error::Section { section: 0, reason: expected });
    }
}

/// A preamble that a reader accepts: step, low bits, counts, and tables in which one symbol may be rare.
fn preamble(step: u16, low_bits: u8, counts: Option<[u16; 2]>, symbols: (u8, u8)) -> Vec<u8> {
    let mut bytes = step.to_le_bytes().to_vec();
    bytes.push(low_bits);
    counts.iter().flatten().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
    for last in [symbols.0, symbols.1] {
        // All have a share of 1 but the last, which has the rest.
        bytes.push(last);
        bytes.extend(std::iter::repeat_n(1, last.into()));
        let rest = 4096 - u16::from(last);
        bytes.extend_from_slice(&[rest as u8 | 0x80, (rest >> 7) as u8]);
    }
    bytes
}

/// Sixteen lanes that a reader accepts, and any words.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let lanes = prop::collection::vec((1_u64 << 32).., 16);
    (lanes, prop::collection::vec(any::<u32>(), 0..400)).prop_map(|(lanes, words)| {
        let lanes = lanes.into_iter().flat_map(u64::to_le_bytes);
        lanes.chain(words.into_iter().flat_map(u32::to_le_bytes)).collect()
    })
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(parse(&bytes).is_err());
    }

    /// Any stream at all, in a well-formed frame: refused, or decoded within the rules, never a panic.
    #[test]
    fn any_section_under_a_fresh_hash(
        section in stream(),
        step in 1..=4096_u16, low_bits in 0..8_u8, symbols in (0..16_u8, 0..64_u8), tame in any::<bool>(),
    ) {
        let (_, _, bytes) = small();
        let mut file = bytes[..PREFIX + FIXED + ENTRY + 32].to_vec();
        if tame {
            file.extend(preamble(step, low_bits, None, symbols));
        }
        file.extend_from_slice(&section);
        rehash(&mut file);
        if let Ok(update) = parse(&file) {
            prop_assert!(update.norm().is_finite());
        }
    }

    #[test]
    fn any_delta_section_under_a_fresh_hash(
        section in stream(),
        counts in (1..60_u16, 0..4000_u16), low_bits in 0..8_u8, symbols in (0..16_u8, 0..64_u8),
    ) {
        let layout = layout(&[&[70, 70], &[100]]);
        let merged = merge(&layout, &delta_binding(), &DeltaConfig::default(), &[], &mut layout.zeros()).unwrap();
        let mut file = merged[..PREFIX + FIXED + ENTRY + 32].to_vec();
        file.extend(preamble(256, low_bits, Some([counts.0, counts.0 + counts.1]), symbols));
        file.extend_from_slice(&section);
        rehash(&mut file);
        if let Ok(delta) = Delta::parse(file, &layout, &DeltaConfig::default(), &delta_binding()) {
            prop_assert!(delta.norm().is_finite());
            prop_assert!(delta.kept() <= layout.num_parameters());
        }
    }
}
