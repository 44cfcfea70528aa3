//! The terms of a run, as everybody reads them before the first window.
#![no_main]

use brigade_codec::{CodeBits, CodecConfig, Layout};
use brigade_fuzz::records;
use brigade_protocol::gauntlet::{Case, Gram, judge};
use brigade_protocol::{
    Cutoff, Digest, Exclusion, FilePin, Improvement, Manifest, ModelConfig, PeerId, PeerScore, Pinned,
    Reason, Scores, Signed, Timestamp, Training,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let manifests = [records::raw::<Manifest>(input), records::signed::<Manifest>(input)];
    for manifest in manifests.into_iter().flatten() {
        assert_eq!(manifest.run(), manifest.digest);
        if manifest.record.validate().is_ok() {
            check(&manifest.record);
        }
    }
});

/// What later arithmetic relies on.
fn check(manifest: &Manifest) {
    records::round_trip(manifest);
    check_training(&manifest.training);
    check_model(&manifest.model);
    check_windows(manifest);
    check_votes(manifest);
    let compression = &manifest.compression;
    let code =
        |bits: u32| u8::try_from(bits).ok().and_then(CodeBits::from_number).expect("a code of 1 to 4 bits");
    let bits = code(compression.bits);
    code(manifest.outer.delta_bits);
    let error_feedback_decay = compression.error_feedback_decay;
    let config = CodecConfig { top_k: compression.top_k, bits, error_feedback_decay };
    config.check().expect("the codec takes what the manifest may say");
}

fn check_training(training: &Training) {
    let (low, high) = (training.min_learning_rate, training.learning_rate);
    let (warm, end) = (training.warmup_steps, training.decay_steps);
    let stable = warm.saturating_add(training.stable_steps);
    let (anneal, low_from) = training
        .anneal
        .map_or((end, end), |anneal| (anneal.start, anneal.start.saturating_add(anneal.steps)));
    let ends = [warm, stable, end, anneal, low_from];
    let around = ends.iter().flat_map(|end| [end.saturating_sub(1), *end, end.saturating_add(1)]);
    for step in
        around.chain([0, 1, warm / 2 + end / 2, stable / 2 + end / 2, anneal / 2 + low_from / 2, u64::MAX])
    {
        let rate = training.learning_rate_at(step);
        let floor = if step < warm { 0.0 } else { low };
        // A rounding beyond the ends is no harm.
        let slack = 1e-12 * high + f64::MIN_POSITIVE;
        assert!((floor - slack..=high + slack).contains(&rate), "{rate} at {step} of {training:?}");
    }
    assert!(training.tokens_per_window() > 0);
}

fn check_model(model: &ModelConfig) {
    // A block more is the same again, and thousands of them are nothing but slow.
    let model = ModelConfig { num_hidden_layers: model.num_hidden_layers.min(3), ..model.clone() };
    model.validate().expect("fewer blocks are a model too");
    let tensors = model.tensors();
    let elements = |shape: &[usize]| shape.iter().map(|&extent| extent as u128).product::<u128>();
    let expected: u128 = tensors.iter().map(|tensor| elements(&tensor.shape)).sum();
    assert_eq!(model.num_parameters() as u128, expected);
    assert!(tensors.iter().all(|tensor| tensor.numel() > 0));
    let folder = model.to_hugging_face();
    assert!(
        folder.as_object().is_some_and(|fields| fields.values().all(|field| !field.is_null())),
        "{folder}"
    );
    // More parameters than a file can be about are refused; whatever else validates has a layout.
    match Layout::new(tensors.into_iter().map(|tensor| (tensor.name, tensor.shape))) {
        Ok(layout) => assert_eq!(u128::from(layout.num_parameters()), expected),
        Err(error) => assert!(expected > 1 << 40, "{expected} parameters: {error}"),
    }
}

fn check_windows(manifest: &Manifest) {
    let windows = &manifest.windows;
    assert!(windows.train().max(windows.score()).as_secs() <= 7 * 86_400);
    assert!(windows.is_checkpoint(0));
    if let Some(total) = windows.total {
        assert!(windows.is_over(total) && windows.is_checkpoint(total));
        assert!(total == 0 || !windows.is_over(total - 1));
    }
    let cutoff = cutoff(&[1, 2, 3]);
    for norms in [[1.0, 0.0, 1e30], [0.0; 3], [1.0, 2.0, 3.0]] {
        let products = (0..9).map(|n| if n / 3 == n % 3 { norms[n / 3] * norms[n / 3] } else { 0.0 });
        let gram = Gram::new(products.collect()).expect("nine finite numbers");
        let case = Case { manifest, cutoff: &cutoff, heard: &[], gram: &gram, previous: &[] };
        let judgement = judge(&case);
        for share in &judgement.shares {
            assert!(share.coefficient.is_finite() && share.coefficient >= 0.0, "{share:?}");
            assert!(share.coefficient <= manifest.outer.learning_rate);
        }
        let sum: f64 = judgement.shares.iter().map(|share| share.weight).sum();
        assert!(judgement.shares.is_empty() || (sum - 1.0).abs() < 1e-9, "{judgement:?}");
        let sum: f64 = judgement.standings.iter().map(|standing| standing.weight).sum();
        assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-9, "{judgement:?}");
    }
}

fn cutoff(peers: &[u8]) -> Cutoff {
    let zero = Digest([0; 32]);
    let pinned = |n: &u8| Pinned {
        peer: PeerId([*n; 32]),
        update: FilePin { key: "u".into(), size: 1, sha256: zero, frame: zero },
        etag: String::new(),
        receipt: zero,
        received_at: Timestamp(0),
        mirrored_at: Timestamp(0),
        content: Digest([*n; 32]),
        start_losses: Vec::new(),
    };
    let (pinned, excluded) = (peers.iter().map(pinned).collect(), Vec::new());
    Cutoff { run: zero, window: 0, epoch: 0, open: zero, cut_at: Timestamp(0), pinned, excluded }
}

/// Where all validators say the same, their stakes must not matter.
fn check_votes(manifest: &Manifest) {
    let (peer, zero) = (PeerId([1; 32]), Digest([0; 32]));
    let cutoff = cutoff(&[1]);
    let gram = Gram::new(vec![1.0]).expect("a finite number");
    let vote = |mean: Option<f64>| {
        let unassigned = mean.map(|mean| Improvement { mean, standard_error: 0.0, sequences: 8 });
        let fault = mean.is_none().then(|| Exclusion::new(peer, Reason::Malformed, "torn"));
        let (merit, trace, passes) = (unassigned, unassigned, 8);
        let (assigned, start_gap) = (unassigned, None);
        let score = PeerScore { peer, fault, assigned, unassigned, merit, trace, start_gap, passes };
        let scores = Scores { run: zero, window: 0, cutoff: zero, scores: vec![score], seconds: 1.0 };
        let by = |signer| Signed { record: scores.clone(), signer, digest: zero };
        let heard: Vec<_> = manifest.validators.iter().map(|validator| by(validator.id)).collect();
        let case = Case { manifest, cutoff: &cutoff, heard: &heard, gram: &gram, previous: &[] };
        judge(&case).excluded.first().map(|exclusion| exclusion.reason)
    };
    // Who is named twice has the first stake.
    let stake = |id| manifest.validator(id).map_or(0, |validator| validator.stake);
    let any = manifest.validators.iter().any(|validator| stake(&validator.id) > 0);
    assert_eq!(vote(Some(1.0)), None);
    assert_eq!(vote(Some(-1.0)), any.then_some(Reason::Harmful));
    assert_eq!(vote(None), any.then_some(Reason::Malformed));
}
