use super::*;

const GB: u64 = 1_000_000_000;

fn setup(model: ModelConfig, gpus: u64) -> Setup {
    Setup {
        model,
        device: DeviceKind::Cuda,
        gpus,
        precision: Precision::BFloat16,
        is_widened: false,
        sequence_length: 2048,
        batch: 192 / gpus,
        micro_batch: 1,
        recompute: Recompute::None,
        offload: false,
    }
}

fn preset(name: &str) -> ModelConfig {
    ModelConfig::preset(name).unwrap()
}

fn thirteen_billion() -> ModelConfig {
    ModelConfig {
        vocab_size: 32_000,
        hidden_size: 5120,
        intermediate_size: 13_824,
        num_hidden_layers: 40,
        num_attention_heads: 40,
        num_key_value_heads: 40,
        ..preset("8b")
    }
}

#[test]
fn covenant_72b_fits_eight_gpus_of_180_gb_with_offload_and_not_without() {
    let plain = Setup { recompute: Recompute::All, ..setup(preset("covenant-72b"), 8) };
    assert!(memory(&plain).total() > 180 * GB);
    let offloaded = Setup { offload: true, ..plain };
    assert!(memory(&offloaded).total() <= 180 * GB, "{:?}", memory(&offloaded));
    assert!(host_memory(&offloaded).moments > 8 * 72 * GB);
}

#[test]
fn a_13b_fits_eight_gpus_of_24_gb_with_offload_and_recomputation() {
    let model = thirteen_billion();
    assert_eq!(model.num_parameters(), 13_015_864_320);
    let advice = advise(&setup(model, 8), 24 * GB).unwrap();
    assert_eq!(advice.changes, ["--recompute all", "--offload"], "{:?}", memory(&advice.setup));
}

#[test]
fn an_8b_on_one_gpu_of_24_gb_is_told_what_to_change() {
    let one = setup(preset("8b"), 1);
    assert!(memory(&one).total() > 24 * GB);
    let advice = advise(&one, 24 * GB).unwrap();
    assert_eq!(advice.changes, ["--recompute all", "--offload", "--gpus 8"], "{:?}", memory(&advice.setup));
    assert!(memory(&advice.setup).total() <= 24 * GB);
    let large = Setup { micro_batch: 16, ..setup(preset("1b"), 1) };
    let advice = advise(&large, 40 * GB).unwrap();
    assert_eq!(advice.changes.len(), 1, "{advice:?}");
    assert!(advice.changes[0].starts_with("--micro-batch"), "{advice:?}");
    assert_eq!(advise(&one, GB), None);
}

#[test]
fn masters_gradients_and_moments_are_shared_evenly() {
    let [one, eight] = [1, 8].map(|gpus| memory(&setup(preset("1b"), gpus)));
    assert_eq!((one.masters, one.moments), (8 * eight.masters, 8 * eight.moments));
    assert_eq!(one.masters, 4 * preset("1b").num_parameters() as u64);
    assert_eq!((one.gathered, one.compute_copies), (0, one.masters / 2));
}

#[test]
fn recomputation_costs_a_third_and_every_second_block_half_of_that() {
    let seconds =
        |recompute| step_seconds(&Setup { recompute, ..setup(preset("1b"), 1) }, 1 << 20, 1e15, 0.4);
    let none = seconds(Recompute::None);
    assert!((seconds(Recompute::All) / none - 4.0 / 3.0).abs() < 1e-9);
    assert!((seconds(Recompute::Every(2)) / none - 7.0 / 6.0).abs() < 1e-9);
    // Rows of the input embedding are looked up, not multiplied with.
    let looked_up = preset("1b").vocab_size as f64 * 2048.0;
    let flops = 6.0 * (1_104_218_112.0 - looked_up) + 12.0 * 16.0 * 2048.0 * 2048.0;
    assert!((none / (f64::from(1 << 20) * flops / 4e14) - 1.0).abs() < 1e-9);
}

#[test]
fn files_have_the_size_that_was_measured() {
    let link = Link { up: 110e6, down: 500e6, peers: 20, top_k: 64, bits: 1, delta_bits: 2, delta_top_k: 0 };
    let model = setup(preset("covenant-72b"), 8);
    let found = exchange(&model, &link);
    let bits = |bytes: u64, kept: f64| bytes as f64 * 8.0 / (72_747_327_488.0 * kept);
    assert!((bits(found.update_bytes, 1.0 / 64.0) - 8.6).abs() < 0.1, "{found:?}");
    let two = exchange(&model, &Link { bits: 2, ..link });
    assert!((bits(two.update_bytes, 1.0 / 64.0) - 9.45).abs() < 0.1, "{two:?}");
    assert!((found.up_seconds - 8.0 * found.update_bytes as f64 / 110e6).abs() < 1e-3);
    let bounded = exchange(&model, &Link { delta_top_k: 128, ..link });
    assert!((bits(bounded.delta_bytes, 1.0 / 32.0) - 8.5).abs() < 0.2, "{bounded:?}");
    // Twenty peers at most keep twenty times what one does, at shorter distances.
    assert!(found.delta_bytes < 20 * found.update_bytes && found.delta_bytes > 10 * found.update_bytes);
}

#[test]
fn recomputation_is_read_as_it_is_written() {
    for (text, read) in [("none", Recompute::None), ("all", Recompute::All), ("4", Recompute::Every(4))] {
        assert_eq!((text.parse(), read.to_string()), (Ok(read), text.to_owned()));
    }
    assert!("0".parse::<Recompute>().is_err() && "some".parse::<Recompute>().is_err());
}
