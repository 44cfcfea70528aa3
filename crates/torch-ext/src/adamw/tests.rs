#![allow(clippy::unwrap_used)]

use super::*;

const SHAPES: [&[i64]; 4] = [&[33, 65], &[7], &[2, 3, 4], &[]];

/// Numbers in (−2, 2) without libtorch's generator, which the tests of a process share.
fn random(seed: i64, kind: Kind) -> Vec<Tensor> {
    let one = |shape: &&[i64]| {
        let count = shape.iter().product::<i64>();
        let x = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + seed as f64 * 78.233;
        ((x.sin() * 43758.5453).frac() * 2.0).to_kind(kind).view(*shape)
    };
    SHAPES.iter().map(one).collect()
}

fn copies(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(|tensor| tensor.detach().copy()).collect()
}

fn max_difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let one = |(a, b): (&Tensor, &Tensor)| {
        (a.detach().to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

/// Algorithm 2 of the paper, written out in fp64.
struct Plain {
    m: Vec<Tensor>,
    v: Vec<Tensor>,
    t: i32,
}

impl Plain {
    fn new(params: &[Tensor]) -> Self {
        let zeros = || params.iter().map(Tensor::zeros_like).collect();
        Self { m: zeros(), v: zeros(), t: 0 }
    }

    fn step(&mut self, params: &mut [Tensor], grads: &[Tensor], lr: f64, o: &AdamWOptions) {
        self.t += 1;
        for (i, param) in params.iter_mut().enumerate() {
            let g = grads[i].to_kind(Kind::Double);
            self.m[i] = &self.m[i] * o.beta1 + &g * (1.0 - o.beta1);
            self.v[i] = &self.v[i] * o.beta2 + g.square() * (1.0 - o.beta2);
            let m_hat = &self.m[i] / (1.0 - o.beta1.powi(self.t));
            let v_hat = &self.v[i] / (1.0 - o.beta2.powi(self.t));
            *param = &*param * (1.0 - lr * o.weight_decay) - m_hat / (v_hat.sqrt() + o.eps) * lr;
        }
    }
}

fn follow_the_paper(kind: Kind, tolerance: f64) {
    let options = AdamWOptions::default();
    let params: Vec<Tensor> =
        random(1, kind).into_iter().map(|p| (p * 0.05).set_requires_grad(true)).collect();
    let mut expected: Vec<Tensor> = copies(&params).iter().map(|p| p.to_kind(Kind::Double)).collect();
    let (mut fused, mut plain) = (AdamW::new(&params, options).unwrap(), Plain::new(&expected));
    for i in 0..20 {
        let grads = random(100 + i, kind);
        let lr = 1e-3 * (1.0 + i as f64 / 10.0);
        fused.step(&params, &grads, lr, None).unwrap();
        plain.step(&mut expected, &grads, lr, &options);
        let difference = max_difference(&params, &expected);
        assert!(difference < tolerance, "{kind:?}, step {i}: {difference}");
    }
    assert_eq!(fused.steps(), 20);
    assert!(max_difference(fused.exp_avgs(), &plain.m) < tolerance);
    assert!(max_difference(fused.exp_avg_sqs(), &plain.v) < tolerance);
    assert!(params.iter().all(|p| p.is_leaf() && p.requires_grad()));
}

#[test]
fn fused_steps_are_the_papers_steps() {
    follow_the_paper(Kind::Float, 1e-6);
    // With rounding out of the way, the formula itself.
    follow_the_paper(Kind::Double, 1e-12);
}

#[test]
fn saved_moments_go_on_as_if_nothing_happened() {
    let options = AdamWOptions::default();
    let params = random(2, Kind::Float);
    let mut first = AdamW::new(&params, options).unwrap();
    for i in 0..3 {
        first.step(&params, &random(i, Kind::Float), 1e-2, None).unwrap();
    }
    let other = copies(&params);
    let (m, v) = (copies(first.exp_avgs()), copies(first.exp_avg_sqs()));
    let mut second = AdamW::from_moments(m, v, first.steps(), options).unwrap();
    for i in 3..6 {
        first.step(&params, &random(i, Kind::Float), 1e-2, None).unwrap();
        second.step(&other, &random(i, Kind::Float), 1e-2, None).unwrap();
    }
    assert_eq!(params, other);
    assert_eq!(second.steps(), 6);
}

#[test]
fn a_step_left_out_changes_nothing() {
    let params = random(3, Kind::Float);
    let mut adamw = AdamW::new(&params, AdamWOptions::default()).unwrap();
    adamw.step(&params, &random(4, Kind::Float), 1e-2, None).unwrap();
    let (was, m, v) = (copies(&params), copies(adamw.exp_avgs()), copies(adamw.exp_avg_sqs()));
    let bad: Vec<Tensor> = params.iter().map(|p| p.full_like(f64::NAN)).collect();
    let norm = crate::foreach::clip_global_norm_(&bad, 1.0).unwrap();
    let found_inf = norm.isfinite().logical_not().to_kind(Kind::Float);
    adamw.step(&params, &bad, 1e-2, Some(&found_inf)).unwrap();
    assert_eq!(params, was);
    assert_eq!(adamw.exp_avgs(), m);
    assert_eq!(adamw.exp_avg_sqs(), v);
    assert_eq!(adamw.steps(), 1);
    adamw.step(&params, &random(5, Kind::Float), 1e-2, Some(&found_inf.zeros_like())).unwrap();
    assert_eq!(adamw.steps(), 2);
    assert!(max_difference(&params, &was) > 0.0);
}

#[test]
fn reset_is_a_new_start() {
    let params = random(6, Kind::Float);
    let mut adamw = AdamW::new(&params, AdamWOptions::default()).unwrap();
    adamw.step(&params, &random(7, Kind::Float), 1e-2, None).unwrap();
    adamw.reset().unwrap();
    assert_eq!(adamw.steps(), 0);
    let (other, grads) = (copies(&params), random(8, Kind::Float));
    adamw.step(&params, &grads, 1e-2, None).unwrap();
    AdamW::new(&other, AdamWOptions::default()).unwrap().step(&other, &grads, 1e-2, None).unwrap();
    assert_eq!(params, other);
}

/// The kernel trusts what it is given: each of these would have it read or write beside a buffer.
#[test]
fn tensors_that_do_not_go_together_are_refused_before_the_kernel() {
    let params = random(9, Kind::Float);
    let mut adamw = AdamW::new(&params, AdamWOptions::default()).unwrap();
    let was = copies(&params);
    let with = |i: usize, tensor: Tensor| {
        let mut grads = random(10, Kind::Float);
        grads[i] = tensor;
        grads
    };
    let cpu = |kind| (kind, Device::Cpu);
    let cases = [
        (with(1, Tensor::zeros([6], cpu(Kind::Float))), "has shape [6], expected [7]"),
        (with(1, Tensor::zeros([7], cpu(Kind::Double))), "is Double, expected Float"),
        (with(0, Tensor::zeros([65, 33], cpu(Kind::Float)).tr()), "must be contiguous"),
        (with(0, Tensor::zeros([1, 1], cpu(Kind::Float)).expand([33, 65], false)), "must be contiguous"),
        (with(2, Tensor::new()), "grads[2] is undefined"),
        (random(10, Kind::Float).into_iter().take(3).collect(), "grads has 3 tensors, expected 4"),
    ];
    for (grads, reason) in cases {
        let error = adamw.step(&params, &grads, 1e-2, None).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let wrong = Tensor::from_slice(&[0.0f32, 0.0]);
    assert!(adamw.step(&params, &random(10, Kind::Float), 1e-2, Some(&wrong)).is_err());
    assert_eq!(adamw.steps(), 0);
    assert_eq!(params, was);
    assert!(AdamW::from_moments(copies(&params), Vec::new(), 0, AdamWOptions::default()).is_err());
}

/// A reference that the shim kept would keep the storage too.
#[test]
fn no_tensor_leaks() {
    let resident = || -> u64 {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let round = || {
        let params = [Tensor::ones([1 << 20], (Kind::Float, Device::Cpu))];
        let grads = [Tensor::ones([1 << 20], (Kind::Float, Device::Cpu))];
        let mut adamw = AdamW::new(&params, AdamWOptions::default()).unwrap();
        let norm = crate::foreach::clip_global_norm_(&grads, 1.0).unwrap();
        adamw.step(&params, &grads, 1e-2, None).unwrap();
        assert!(adamw.step(&params, &[Tensor::new()], 1e-2, None).is_err());
        assert!(norm.double_value(&[]) > 0.0);
    };
    round();
    let before = resident();
    (0..50).for_each(|_| round());
    // A leak of one list of the four would be 200 MB.
    assert!(resident().saturating_sub(before) < 100 << 20, "memory grew");
}
