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
    // scales from, to, step, share of the first level
    let number = |i: usize| {
        let at = section + 2 * i;
        u16::from_le_bytes([bytes[at], bytes[at + 1]])
    };
    let (from, to) = (number(0), number(1));
    assert!(0 < from && from < to && (1..=4096).contains(&number(2)) && number(3) < 1 << 15);
    for (i, value) in [
        (0, 0),
        (0, to + 1),
        (0, u16::MAX),
        (1, 0),
        (1, from - 1),
        (1, 2049),
        (2, 0),
        (2, 4097),
        (3, (1 << 15) + 1),
        (3, u16::MAX),
    ] {
        let mut changed = bytes.clone();
        changed[section + 2 * i..section + 2 * i + 2].copy_from_slice(&u16::to_le_bytes(value));
        rehash(&mut changed);
        assert!(matches!(parse(&changed), Err(Error::Section { .. })), "number {i} = {value}");
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(parse(&bytes).is_err());
    }

    /// Any stream at all, in a well-formed frame: refused, or decoded within the rules, never a panic.
    #[test]
    fn any_section_under_a_fresh_hash(
        section in prop::collection::vec(any::<u8>(), 0..120),
        preamble in (1..2048_u16, 0..40_u16, 1..4096_u16, 0..=1_u16 << 15),
        tame in any::<bool>(),
    ) {
        let (_, _, bytes) = small();
        let mut file = bytes[..PREFIX + FIXED + ENTRY + 32].to_vec();
        if tame {
            let (from, more, step, share) = preamble;
            for number in [from, from + more, step, share] {
                file.extend_from_slice(&number.to_le_bytes());
            }
        }
        file.extend_from_slice(&section);
        rehash(&mut file);
        if let Ok(update) = parse(&file) {
            prop_assert!(update.norm().is_finite());
        }
    }

    #[test]
    fn any_delta_section_under_a_fresh_hash(
        section in prop::collection::vec(any::<u8>(), 0..400),
        scales in (1..2000_u16, 0..40_u16), counts in (1..60_u16, 0..4000_u16), share in 0..=1_u16 << 15,
    ) {
        let layout = layout(&[&[70, 70], &[100]]);
        let merged = merge(&layout, &delta_binding(), &DeltaConfig::default(), &[], &mut layout.zeros()).unwrap();
        let mut file = merged[..PREFIX + FIXED + ENTRY + 32].to_vec();
        for number in [scales.0, scales.0 + scales.1, 256, counts.0, counts.0 + counts.1, share] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&section);
        rehash(&mut file);
        if let Ok(delta) = Delta::parse(file, &layout, &DeltaConfig::default(), &delta_binding()) {
            prop_assert!(delta.norm().is_finite());
            prop_assert!(delta.kept() <= layout.num_parameters());
        }
    }
}
