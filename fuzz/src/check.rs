//! What must hold of every file that is accepted.

use brigade_codec::{
    Delta, DeltaConfig, Error, Layout, Stats, Update, compress, gram, max_update_bytes, merge,
};

use crate::input::{BINDING, DELTA_BINDING, File, Setting};
use crate::reference::Value;

/// No value of any file exceeds it (`docs/update-format.md`, §3).
const LARGEST: f32 = (1_u64 << 39) as f32;

/// A value by its bits, so that −0 and 0 differ and nothing is rounded.
fn bits(values: &[Value]) -> Vec<(usize, usize, u32)> {
    values.iter().map(|&(tensor, index, value)| (tensor, index, value.to_bits())).collect()
}

/// A refusal must be right: the reference refuses too, and where the frame is ours the sections are to blame.
///
/// `limit` is the longest file that there can be.
///
/// # Panics
/// If it is not.
pub fn refused(setting: &Setting, file: &File, error: &Error, limit: u64) {
    match error {
        // A rule that the reference does not know.
        Error::TooLong { .. } => {
            let whole = setting.sections.len() == 1 && file.framed;
            assert!(!whole || file.bytes.len() as u64 > limit, "not too long: {error}");
        }
        _ => assert!(file.values.is_none(), "refused, although no rule is broken: {error}"),
    }
    if file.framed {
        let blamed = matches!(error, Error::TooLong { .. } | Error::Section { .. });
        assert!(blamed, "the frame is well-formed: {error}");
    }
}

/// What an update and a delta have in common.
struct Accepted<'a> {
    layout: &'a Layout,
    len: u64,
    kept: u64,
    norm: f64,
    stats: Stats,
    values: Vec<Value>,
}

impl Accepted<'_> {
    fn check(&self, file: &File) {
        assert_eq!(self.len, file.bytes.len() as u64);
        let expected = file.values.as_ref().expect("accepted, although a rule is broken");
        // In the order of the file for both: tensors follow each other, and so do a tensor's chunks.
        assert_eq!(bits(&self.values), bits(expected), "the values are not those of the reference");

        assert_eq!(self.kept, self.values.len() as u64);
        assert!(self.kept <= self.layout.num_parameters());
        let mut places: Vec<_> = self.values.iter().map(|&(tensor, index, _)| (tensor, index)).collect();
        places.sort_unstable();
        assert!(places.is_sorted_by(|a, b| a < b), "an element comes twice");
        let within = |&(tensor, index): &(usize, usize)| index < self.layout.tensors()[tensor].len();
        assert!(places.iter().all(within), "an element is outside its tensor");
        let sound = |&(_, _, value): &Value| value.is_normal() && value.abs() <= LARGEST;
        assert!(self.values.iter().all(sound), "a value is zero, not finite or too large");

        let squares: f64 = self.values.iter().map(|&(_, _, value)| f64::from(value).powi(2)).sum();
        assert!(near(self.norm, squares.sqrt()), "norm {}, not {}", self.norm, squares.sqrt());
        self.check_stats();
    }

    fn check_stats(&self) {
        let stats = &self.stats;
        let whole = 8.0 * self.len as f64;
        assert_eq!(
            (stats.parameters, stats.kept, stats.bytes),
            (self.layout.num_parameters(), self.kept, self.len)
        );
        let parts = [stats.index_bits, stats.code_bits, stats.scale_bits, stats.framing_bits];
        assert!(parts.iter().all(|part| part.is_finite()), "{stats:?}");
        assert!((parts.iter().sum::<f64>() - whole).abs() < 1e-6 * whole, "{stats:?}");
        assert!(stats.index_bound_bits.is_finite() && stats.index_bound_bits >= 0.0, "{stats:?}");
        let rates = [stats.bits_per_kept(), stats.bits_per_parameter(), stats.compression()];
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{stats:?}");
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

fn collect(layout: &Layout, mut for_each: impl FnMut(usize, &mut Vec<Value>)) -> Vec<Value> {
    let mut values = Vec::new();
    (0..layout.tensors().len()).for_each(|tensor| for_each(tensor, &mut values));
    values
}

fn update_values(update: &Update) -> Vec<Value> {
    let each = |tensor, out: &mut Vec<Value>| {
        update
            .for_each(tensor, |index, value| out.push((tensor, index, value)))
            .expect("its bytes are in memory");
    };
    collect(update.layout(), each)
}

fn delta_values(delta: &Delta) -> Vec<Value> {
    let each = |tensor, out: &mut Vec<Value>| {
        delta
            .for_each(tensor, |index, value| out.push((tensor, index, value)))
            .expect("its bytes are in memory");
    };
    collect(delta.layout(), each)
}

/// Everything that is promised of an update that was accepted.
///
/// # Panics
/// If it does not hold.
pub fn update(setting: &Setting, file: &File, update: &Update) {
    let (layout, values) = (update.layout(), update_values(update));
    let (kept, norm, stats) =
        (update.kept(), update.norm(), update.stats().expect("its bytes are in memory"));
    let accepted = Accepted { layout, len: update.frame().file_len(), kept, norm, stats, values };
    accepted.check(file);

    let mut dense = layout.zeros();
    accepted.values.iter().for_each(|&(tensor, index, value)| dense[tensor][index] = value);
    let decoded = update.decode().expect("its bytes are in memory");
    same(&decoded, &dense);
    let mut over = layout.zeros();
    over.iter_mut().flatten().for_each(|element| *element = f32::NAN);
    update.decode_into(&mut over).expect("the tensors are the layout's");
    same(&over, &dense);
    assert!(update.decode_into(&mut over[1..]).is_err(), "a tensor is missing");
    if file.goes_on {
        compress_again(setting, &accepted, &decoded);
        let neighbour = neighbour(setting, layout);
        products(&accepted, update, &neighbour);
        merge_it(setting, &accepted, update, &neighbour);
    }
}

/// An honest peer's update, which is read side by side with the hostile one: of many sizes, both signs.
fn neighbour(setting: &Setting, layout: &Layout) -> Update {
    let mut delta = layout.zeros();
    for (element, i) in delta.iter_mut().flatten().zip(1_u32..) {
        let hash = i.wrapping_mul(0x9e37_79b9);
        *element = f32::from_bits((hash & 0x807f_ffff) | (110 + (hash >> 23) % 16) << 23);
    }
    let slices: Vec<_> = delta.iter().map(Vec::as_slice).collect();
    let config = setting.config();
    let bytes = compress(layout, &BINDING, &config, &slices, &mut layout.zeros()).expect("finite values");
    Update::parse(bytes, layout, &config, &BINDING).expect("what is compressed can be read")
}

/// All scalar products of the two and of the hostile one with itself, whichever is read first.
fn products(accepted: &Accepted<'_>, update: &Update, neighbour: &Update) {
    let dense = neighbour.decode().expect("its bytes are in memory");
    let (mut cross, mut size) = (0.0, 0.0);
    for &(tensor, index, value) in &accepted.values {
        let product = f64::from(value) * f64::from(dense[tensor][index]);
        cross += product;
        size += product.abs();
    }
    let (a, b) = (update.norm().powi(2), neighbour.norm().powi(2));
    let found = gram(&[update, neighbour, update]).expect("one layout");
    let expected = [a, cross, a, cross, b, cross, a, cross, a];
    for (found, expected) in found.iter().zip(expected) {
        let scale = if expected == cross { size } else { expected };
        assert!((found - expected).abs() <= 1e-9 * scale, "{found}, not {expected}");
    }
}

fn same(found: &[Vec<f32>], expected: &[Vec<f32>]) {
    let bits = |value: &f32| value.to_bits();
    for (tensor, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found.iter().map(bits).eq(expected.iter().map(bits)), "tensor {tensor} differs");
    }
}

/// What was decoded can be compressed: within the bound that readers apply, and to nothing that was not there.
fn compress_again(setting: &Setting, accepted: &Accepted<'_>, decoded: &[Vec<f32>]) {
    let (layout, config) = (accepted.layout, setting.config());
    let slices: Vec<_> = decoded.iter().map(Vec::as_slice).collect();
    let mut e = layout.zeros();
    let bytes =
        compress(layout, &BINDING, &config, &slices, &mut e).expect("finite values can be compressed");
    assert!(bytes.len() as u64 <= max_update_bytes(layout, &config));
    assert!(e.iter().flatten().all(|value| value.is_finite()));
    let again = Update::parse(bytes, layout, &config, &BINDING).expect("what is compressed can be read");
    part_of(&update_values(&again), &accepted.values);
}

/// One peer's hostile but well-formed update must never make a merge fail, nor put a value where nobody has one.
fn merge_it(setting: &Setting, accepted: &Accepted<'_>, update: &Update, neighbour: &Update) {
    let layout = accepted.layout;
    let config = DeltaConfig { bits: setting.format.bits, ..DeltaConfig::default() };
    let place = |&(tensor, index, _): &Value| (tensor, index);
    let mut union: Vec<_> = accepted.values.iter().chain(&update_values(neighbour)).map(place).collect();
    union.sort_unstable();
    let merged = |updates: &[(&Update, f32)]| {
        let mut e = layout.zeros();
        let bytes = merge(layout, &DELTA_BINDING, &config, updates, &mut e);
        let bytes = bytes.expect("finite values can be merged");
        assert!(e.iter().flatten().all(|value| value.is_finite()));
        delta_values(
            &Delta::parse(bytes, layout, &config, &DELTA_BINDING).expect("what is merged can be read"),
        )
    };
    part_of(&merged(&[(update, 0.5), (update, 1.0)]), &accepted.values);
    for updates in [[(update, 0.5), (neighbour, 1.0)], [(neighbour, 1.0), (update, 0.5)]] {
        let from_nowhere = merged(&updates).iter().any(|value| union.binary_search(&place(value)).is_err());
        assert!(!from_nowhere, "a value where nobody has one");
    }
}

/// Every element of `part` is one of `whole`, with the same sign.
fn part_of(part: &[Value], whole: &[Value]) {
    let mut places: Vec<_> =
        whole.iter().map(|&(tensor, index, value)| (tensor, index, value < 0.0)).collect();
    places.sort_unstable();
    let there = |&(tensor, index, value): &Value| places.binary_search(&(tensor, index, value < 0.0)).is_ok();
    assert!(part.iter().all(there), "a value from nowhere");
}

/// Everything that is promised of a delta that was accepted.
///
/// # Panics
/// If it does not hold.
pub fn delta(file: &File, delta: &Delta) {
    let (layout, values) = (delta.layout(), delta_values(delta));
    let (kept, norm, stats) = (delta.kept(), delta.norm(), delta.stats().expect("its bytes are in memory"));
    let accepted = Accepted { layout, len: delta.frame().file_len(), kept, norm, stats, values };
    accepted.check(file);

    // Of every size from 2^-64 to 2^32, so that a subtraction may round, vanish or be all.
    let mut theta = layout.zeros();
    for (element, i) in theta.iter_mut().flatten().zip(0_u32..) {
        *element = f32::from_bits((63 << 23) + i.wrapping_mul(0x9e37_79b9) % (96 << 23));
    }
    let mut expected = theta.clone();
    accepted.values.iter().for_each(|&(tensor, index, value)| expected[tensor][index] -= value);
    delta.apply(&mut theta).expect("the tensors are the layout's");
    same(&theta, &expected);
    theta[0].pop();
    let before = theta.clone();
    assert!(delta.apply(&mut theta).is_err(), "an element is missing");
    same(&theta, &before);
}
