//! Reading only some rows, and reading from where the bytes are.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use brigade_codec::{
    CodeBits, CodecConfig, Delta, DeltaConfig, Error, Frame, Layout, ReadAt, Update, compress, gram, merge,
};
use bytes::Bytes;
use common::{binding, config, delta_binding, layout, slices, values};

const CONFIG: CodecConfig = CodecConfig { top_k: 64, bits: CodeBits::Two, error_feedback_decay: 0.95 };

/// Matrices of one and of several sections, ragged ones, runs, a scalar.
fn model() -> Layout {
    layout(&[&[3000, 2000], &[70, 130], &[4096 * 1100 + 5], &[], &[3, 5, 7], &[130, 64]])
}

fn file(layout: &Layout, peer: u8) -> Vec<u8> {
    let delta = values(layout, peer.into(), 0.5);
    compress(layout, &binding(peer), &CONFIG, &slices(&delta), &mut layout.zeros()).unwrap()
}

fn part(bytes: &[u8], range: Range<u64>) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

#[test]
fn rows_are_those_of_the_whole_and_only_their_sections_are_needed() {
    let layout = model();
    let bytes = file(&layout, 1);
    let whole = Update::parse(bytes.clone(), &layout, &CONFIG, &binding(1)).unwrap().decode().unwrap();
    let frame =
        Frame::of_update(part(&bytes, 0..Frame::len(&layout)), &layout, &CONFIG, &binding(1)).unwrap();
    assert_eq!(frame.file_len(), bytes.len() as u64);
    for (tensor, rows) in [
        (0, 0..1),
        (0, 0..3000),
        (0, 1023..1025),
        (0, 2999..3000),
        (0, 640..1900),
        (1, 0..70),
        (1, 63..65),
        (2, 0..9),
        (2, 4_194_300..4_194_310),
        (2, 4_505_600..4_505_605),
        (3, 0..1),
        (4, 1..2),
        (5, 0..130),
        (5, 129..130),
    ] {
        let read = frame.rows(tensor, rows.clone()).unwrap();
        let number = layout.tensors()[tensor].shape().first().copied().unwrap_or(1);
        let width = whole[tensor].len() / number;
        let mut dense = vec![0.0; whole[tensor].len()];
        read.decode(part(&bytes, read.bytes()), |index, value| dense[index] = value).unwrap();
        let elements = rows.start * width..rows.end * width;
        for (index, (found, expected)) in dense.iter().zip(&whole[tensor]).enumerate() {
            let expected = if elements.contains(&index) { *expected } else { 0.0 };
            assert_eq!(found.to_bits(), expected.to_bits(), "{tensor} {rows:?} {index}");
        }
        // Neighbours of each other, none that could be left out.
        let sections: Vec<_> = read.sections().collect();
        assert!(sections.windows(2).all(|pair| pair[0].end == pair[1].start));
        for number in [0, sections.len() - 1] {
            let mut any = false;
            let bytes = part(&bytes, sections[number].clone());
            read.decode_section(number, bytes, |_, _| any = true).unwrap();
            // So few rows may have kept none of their values.
            assert!(any || rows.len() * width < 4096, "{tensor} {rows:?}: section {number} is of no use");
        }
    }
    let some = frame.rows(0, 0..64).unwrap().bytes();
    assert!((some.end - some.start) * 2 < bytes.len() as u64 && some.start == Frame::len(&layout));
}

#[test]
fn what_is_not_there_is_refused() {
    let layout = model();
    let bytes = file(&layout, 1);
    let first = part(&bytes, 0..Frame::len(&layout));
    let frame = Frame::of_update(first, &layout, &CONFIG, &binding(1)).unwrap();
    for (tensor, rows) in [(6, 0..1), (0, 3000..3001), (0, 5..5), (3, 1..2), (1, 0..usize::MAX)] {
        let error = frame.rows(tensor, rows).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let rows = frame.rows(2, 0..4_505_605).unwrap();
    let mut bad = part(&bytes, rows.bytes()).to_vec();
    assert!(matches!(rows.decode(&bad[1..], |_, _| {}), Err(Error::Length { what: "sections", .. })));
    let middle = bad.len() - 1;
    bad[middle] ^= 1;
    let error = rows.decode(&bad, |_, _| {}).unwrap_err();
    assert!(error.to_string().starts_with("section ") && matches!(error, Error::Digest { .. }), "{error}");
    // Truncated, for another peer, of another kind.
    assert!(matches!(
        Frame::of_update(&first[1..], &layout, &CONFIG, &binding(1)),
        Err(Error::Magic(_) | Error::Length { .. })
    ));
    assert!(matches!(
        Frame::of_update(&first[..first.len() - 1], &layout, &CONFIG, &binding(1)),
        Err(Error::Length { .. })
    ));
    assert!(matches!(Frame::of_update(first, &layout, &CONFIG, &binding(2)), Err(Error::Binding { .. })));
    let delta = Frame::of_delta(first, &layout, &DeltaConfig::default(), &delta_binding());
    assert!(matches!(delta, Err(Error::Magic("delta"))));
}

/// The hash in front of the first section is what a receipt signs: it changes with any section.
#[test]
fn the_digest_covers_every_section() {
    let layout = layout(&[&[64, 64], &[64]]);
    let of = |last: f32| {
        let mut delta = values(&layout, 1, 0.5);
        *delta[1].last_mut().unwrap() = last;
        let bytes =
            compress(&layout, &binding(1), &config(64, CodeBits::Two), &slices(&delta), &mut layout.zeros());
        let bytes = bytes.unwrap();
        let first = part(&bytes, 0..Frame::len(&layout)).to_vec();
        let frame = Frame::of_update(&first, &layout, &CONFIG, &binding(1)).unwrap();
        assert_eq!(frame.digest(), first[first.len() - 32..]);
        frame.digest()
    };
    assert_eq!(of(1.0), of(1.0));
    assert_ne!(of(1.0), of(2.0));
}

/// A file, and all that was read of it.
struct Watched(File, Arc<Mutex<Vec<Range<u64>>>>);

impl ReadAt for Watched {
    fn len(&self) -> std::io::Result<u64> {
        ReadAt::len(&self.0)
    }

    fn read_at(&self, range: Range<u64>) -> std::io::Result<Bytes> {
        self.1.lock().unwrap().push(range.clone());
        ReadAt::read_at(&self.0, range)
    }
}

fn on_disk(bytes: &[u8]) -> (File, Arc<Mutex<Vec<Range<u64>>>>, Watched) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let log = Arc::default();
    (file.try_clone().unwrap(), Arc::clone(&log), Watched(file, log))
}

#[test]
fn a_file_on_disk_is_the_same_as_one_in_memory_and_is_read_by_sections() {
    let layout = model();
    let files: Vec<_> = (1..4).map(|peer| file(&layout, peer)).collect();
    let (mut here, mut there, mut logs) = (Vec::new(), Vec::new(), Vec::new());
    for (peer, bytes) in (1..4).zip(&files) {
        let (_, log, watched) = on_disk(bytes);
        here.push(Update::parse(bytes.clone(), &layout, &CONFIG, &binding(peer)).unwrap());
        there.push(Update::open(Arc::new(watched), &layout, &CONFIG, &binding(peer)).unwrap());
        logs.push(log);
    }
    let longest =
        |log: &Mutex<Vec<Range<u64>>>| log.lock().unwrap().iter().map(|r| r.end - r.start).max().unwrap();
    assert!(logs.iter().zip(&files).all(|(log, file)| longest(log) < file.len() as u64 / 2));
    assert_eq!(here[0].decode().unwrap(), there[0].decode().unwrap());
    assert_eq!(here[1].stats().unwrap(), there[1].stats().unwrap());
    assert_eq!(
        gram(&here.iter().collect::<Vec<_>>()).unwrap(),
        gram(&there.iter().collect::<Vec<_>>()).unwrap()
    );
    let joined = |updates: &[Update]| {
        let inputs: Vec<_> = updates.iter().map(|update| (update, 0.25)).collect();
        merge(&layout, &delta_binding(), &DeltaConfig::default(), &inputs, &mut layout.zeros()).unwrap()
    };
    let delta = joined(&here);
    assert_eq!(delta, joined(&there));
    let (_, _, watched) = on_disk(&delta);
    let opened = Delta::open(Arc::new(watched), &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
    let parsed = Delta::parse(delta, &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
    let (mut a, mut b) = (layout.zeros(), layout.zeros());
    opened.apply(&mut a).unwrap();
    parsed.apply(&mut b).unwrap();
    assert_eq!(a, b);
}

#[test]
fn a_file_that_changes_after_it_was_checked_is_an_error() {
    let layout = layout(&[&[128, 128]]);
    let bytes = file(&layout, 1);
    let (file, _, watched) = on_disk(&bytes);
    let update = Update::open(Arc::new(watched), &layout, &CONFIG, &binding(1)).unwrap();
    let last = bytes.len() as u64 - 1;
    file.write_all_at(&[bytes[bytes.len() - 1] ^ 1], last).unwrap();
    assert!(matches!(update.decode(), Err(Error::Digest { .. })));
    assert!(matches!(gram(&[&update, &update]), Err(Error::Digest { .. })));
    let joined =
        merge(&layout, &delta_binding(), &DeltaConfig::default(), &[(&update, 1.0)], &mut layout.zeros());
    assert!(matches!(joined, Err(Error::Digest { .. })));
    file.set_len(last).unwrap();
    let error = update.stats().unwrap_err();
    assert!(matches!(error, Error::Read { kind: std::io::ErrorKind::UnexpectedEof, .. }), "{error}");
}
