//! Parameters a second: compress, parse, decode, merge, apply, inner products.
//!
//! `cargo bench -p brigade-codec` prints one line each: the best of five runs. `RAYON_NUM_THREADS=1` for one thread.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use brigade_codec::{CodeBits, Delta, DeltaConfig, Update, compress, gram, merge};
use common::{binding, config, delta_binding, layout, slices, values};

fn time<T>(name: &str, parameters: u64, mut work: impl FnMut() -> T) {
    let mut wanted = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    if wanted.peek().is_some() && !wanted.any(|wanted| wanted == name) {
        return;
    }
    let mut best = f64::INFINITY;
    for _ in 0..9 {
        let start = Instant::now();
        std::hint::black_box(work());
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<24} {:8.1} M parameters/s", parameters as f64 / best / 1e6);
}

fn main() {
    // The inputs are made once; what is not asked for by name is left out.
    let layout = layout(&[&[4096, 4096], &[4096, 4096]]);
    let n = layout.num_parameters();
    let config = config(64, CodeBits::Two);
    let delta = values(&layout, 1, 0.0);
    let mut e = layout.zeros();
    let pack =
        |e: &mut Vec<Vec<f32>>, peer| compress(&layout, &binding(peer), &config, &slices(&delta), e).unwrap();
    time("compress", n, || pack(&mut e, 0));

    // One window after the other: what stays behind in error feedback makes each update another.
    let mut open = |peer: u8| {
        if peer < 4 {
            let own = values(&layout, peer.into(), 0.0);
            return compress(&layout, &binding(peer), &config, &slices(&own), &mut layout.zeros()).unwrap();
        }
        pack(&mut e, peer)
    };
    let files: Vec<bytes::Bytes> = (0..20).map(|peer| open(peer).into()).collect();
    let parse =
        |peer: u8| Update::parse(files[usize::from(peer)].clone(), &layout, &config, &binding(peer)).unwrap();
    let updates: Vec<Update> = (0..20).map(parse).collect();
    time("parse", n, || parse(0));
    let mut dense = layout.zeros();
    time("decode", n, || updates[0].decode_into(&mut dense).unwrap());

    let inputs: Vec<_> = updates.iter().map(|u| (u, 0.05)).collect();
    let pointers: Vec<_> = updates.iter().collect();
    time("gram of 20", n, || gram(&pointers).unwrap());
    let mut e = layout.zeros();
    let one = DeltaConfig { bits: CodeBits::One, top_k: None };
    time("merge of 20, 1 bit", n, || merge(&layout, &delta_binding(), &one, &inputs, &mut e).unwrap());
    let join = |e: &mut Vec<Vec<f32>>| {
        merge(&layout, &delta_binding(), &DeltaConfig::default(), &inputs, e).unwrap()
    };
    time("merge of 20", n, || join(&mut e));
    let bytes = join(&mut e);
    let open = || Delta::parse(bytes.clone(), &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
    time("parse delta", n, open);
    let delta = open();
    time("apply delta", n, || delta.apply(&mut dense).unwrap());
}
