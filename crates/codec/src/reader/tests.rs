//! All ways of reading, on streams of any kind, and what they leave behind.

use proptest::prelude::*;

use super::*;
use crate::quantize::CodeBits;

/// A table that is in order, and lanes and words that are anything.
#[derive(Debug, Clone)]
struct Garbage {
    bits: u8,
    uses: Vec<u32>,
    low_bits: u8,
    lanes: Vec<u64>,
    words: Vec<u32>,
    head: Head,
}

impl Garbage {
    fn format(&self) -> Format {
        Format { bits: CodeBits::from_number(self.bits).unwrap(), top_k: Some(64) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, u8::from(self.bits > 1), self.low_bits];
        Table::fit(&[1]).write(&mut bytes);
        Table::fit(&self.uses[..self.format().symbols()]).write(&mut bytes);
        self.lanes.iter().for_each(|lane| bytes.extend(lane.to_le_bytes()));
        self.words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }
}

/// Mostly symbols that there are not, so that many begin at the same slot, and some that have nearly all.
fn garbage() -> impl Strategy<Value = Garbage> {
    (1..=4_u8).prop_flat_map(|bits| {
        let use_of = prop_oneof![20 => Just(0), 5 => 1..1000_u32, 1 => Just(u32::MAX)];
        let far = CodeBits::from_number(bits).unwrap().levels() * (DISTANCES - 1);
        let near = move |mut uses: Vec<u32>| {
            uses[far..].fill(0);
            uses
        };
        // The longest step that is not far, over and over: sums of sixteen just fit into 16 bits.
        let longest = (0..256).map(|symbol| u32::from(symbol + 1 == far) * 1_000_000).collect::<Vec<_>>();
        let uses = prop_oneof![
            prop::collection::vec(use_of, 256),
            prop::collection::vec(1..1000_u32, 256).prop_map(near),
            Just(longest),
        ];
        let lanes = prop::collection::vec((1_u64 << 32).., LANES);
        let words = prop_oneof![
            prop::collection::vec(any::<u32>(), 0..40),
            prop::collection::vec(any::<u32>(), 3000)
        ];
        let head = (1..=MAX_SCALE_CODE, prop_oneof![1..100_usize, 1..=CHUNK]);
        (uses, 0..=MAX_LOW_BITS as u8, lanes, words, head).prop_map(
            move |(uses, low_bits, lanes, words, (scale, count))| Garbage {
                bits,
                uses,
                low_bits,
                lanes,
                words,
                head: Head { scale, count },
            },
        )
    })
}

/// Positions, values, lanes, next word, and the place behind the last value.
type Left = (Vec<u16>, Vec<u32>, [u64; LANES], usize, u32);

fn left(reader: &Reader<'_>, end: u32) -> Left {
    let values = reader.values.iter().map(|value| value.to_bits()).collect();
    (reader.positions.clone(), values, reader.decoder.lanes, reader.decoder.next, end)
}

fn alone(simd: Simd, from: &Garbage, bytes: &[u8]) -> Left {
    let mut reader = Reader::with(simd, bytes, from.format()).unwrap();
    let end = reader.values(from.head).read_all(simd);
    left(&reader, end)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn every_width_alone_and_in_turns_leaves_the_same(pair in prop::array::uniform2(garbage())) {
        let [a, b] = pair;
        let (bytes_a, bytes_b) = (a.bytes(), b.bytes());
        let scalar = Simd::all()[0];
        let (expected_a, expected_b) = (alone(scalar, &a, &bytes_a), alone(scalar, &b, &bytes_b));
        for &simd in Simd::all() {
            prop_assert_eq!(&expected_a, &alone(simd, &a, &bytes_a));
            prop_assert_eq!(&expected_b, &alone(simd, &b, &bytes_b));
            let mut reader_a = Reader::with(simd, &bytes_a, a.format()).unwrap();
            let mut reader_b = Reader::with(simd, &bytes_b, b.format()).unwrap();
            let [end_a, end_b] = Reader::read_two([&mut reader_a, &mut reader_b], [a.head, b.head]);
            prop_assert_eq!(&expected_a, &left(&reader_a, end_a));
            prop_assert_eq!(&expected_b, &left(&reader_b, end_b));
        }
    }
}
