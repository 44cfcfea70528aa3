//! How much of what a device could do goes into the model: operations, peaks, and the line of a window.

use std::fmt;

use brigade_protocol::ModelConfig;
use serde::{Deserialize, Serialize};

/// Floating-point operations of one token's forward and backward pass at `length` tokens a sequence.
///
/// `6·N + 12·layers·(heads·head_dim)·length` (arXiv 2204.02311, appendix B): N counts the parameters that are multiplied
/// with, so not an untied input embedding, which is only looked up; attention counts in full, as if it were not causal.
/// What recomputation does twice counts once.
pub fn flops_per_token(model: &ModelConfig, length: usize) -> f64 {
    let looked_up = if model.tie_word_embeddings { 0 } else { model.vocab_size * model.hidden_size };
    let multiplied = model.num_parameters().saturating_sub(looked_up) as f64;
    let width = (model.num_attention_heads * model.head_dim()) as f64;
    6.0 * multiplied + 12.0 * model.num_hidden_layers as f64 * width * length as f64
}

/// Dense bf16 operations a second, fp32 accumulation, by a piece of the name that the driver gives a GPU; from NVIDIA's
/// data sheets. The first piece that fits counts.
const BF16_PEAKS: [(&str, f64); 16] = [
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("RTX 6000 Ada", 364e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX A6000", 154.8e12),
    ("RTX 3090", 71e12),
    ("L4", 121e12),
];

/// Dense bf16 operations a second of a GPU, if its data sheet is known.
pub fn bf16_peak(name: &str) -> Option<f64> {
    BF16_PEAKS.iter().find(|(piece, _)| name.contains(piece)).map(|(_, peak)| *peak)
}

/// The name of this machine's NVIDIA GPUs; nothing when there are none, or several kinds.
pub fn gpu_name() -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/driver/nvidia/gpus")
        .ok()?
        .filter_map(|gpu| std::fs::read_to_string(gpu.ok()?.path().join("information")).ok())
        .filter_map(|text| Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned()))
        .collect();
    names.sort();
    names.dedup();
    let name = names.pop()?;
    names.is_empty().then_some(name)
}

/// What a device could do at best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Floating-point operations a second, in the dtype that matrices are multiplied in.
    pub flops_per_second: f64,
    /// Where the number is from.
    pub source: String,
}

impl Peak {
    /// The peak of a data sheet, if there is one for the GPU and dtype, else `measured`.
    ///
    /// `dtype` is `float32` or `bfloat16`; `gpu` is nothing on a CPU.
    pub fn new<E>(
        dtype: &str,
        gpu: Option<&str>,
        measured: impl FnOnce() -> Result<f64, E>,
    ) -> Result<Self, E> {
        let listed = gpu.filter(|_| dtype == "bfloat16").and_then(|gpu| Some((gpu, bf16_peak(gpu)?)));
        Ok(match listed {
            Some((gpu, flops_per_second)) => {
                Self { flops_per_second, source: format!("data sheet of {gpu}, {dtype}") }
            }
            None => Self {
                flops_per_second: measured()?,
                source: format!("measured by a matrix product in {dtype}"),
            },
        })
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.flops_per_second {
            flops if flops >= 1e12 => (flops / 1e12, "TFLOP/s"),
            flops => (flops / 1e9, "GFLOP/s"),
        };
        write!(f, "{value:.1} {unit} ({})", self.source)
    }
}

/// Operations a token and the device's peak: what turns tokens a second into a utilisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gauge {
    /// See [`flops_per_token`].
    pub flops_per_token: f64,
    /// Operations a second.
    pub peak: f64,
}

impl Gauge {
    /// Model FLOPs utilisation at `tokens_per_second`: 1 is the peak. Zero when the peak is not known.
    pub fn mfu(&self, tokens_per_second: f64) -> f64 {
        let mfu = tokens_per_second * self.flops_per_token / self.peak;
        if mfu.is_finite() { mfu } else { 0.0 }
    }
}

/// What the inner steps of one window came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The window.
    pub window: u64,
    /// Inner steps.
    pub steps: u32,
    /// Tokens trained.
    pub tokens: u64,
    /// Mean training loss over the steps, nats a token.
    pub loss: f64,
    /// Mean gradient norm over the steps, before clipping.
    pub grad_norm: f64,
    /// Tokens a second, waiting for data included.
    pub tokens_per_second: f64,
    /// Model FLOPs utilisation: 1 is the device's peak.
    pub mfu: f64,
    /// Median seconds of a step, waiting for data included.
    pub step_seconds: f64,
    /// Share of the time of all steps in which the device waited for a batch.
    pub data_wait_share: f64,
    /// The most memory while training, in bytes: of the process on a CPU, of libtorch's allocator on a GPU.
    pub peak_bytes: u64,
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            window, steps, loss, grad_norm, tokens_per_second, mfu, data_wait_share, peak_bytes, ..
        } = self;
        write!(
            f,
            "window {window} trained, {steps} steps, loss {loss:.4}, gradient norm {grad_norm:.2}, \
             {tokens_per_second:.0} tok/s, {:.1} % MFU, {:.2} % data wait, peak memory {:.2} GiB",
            100.0 * mfu,
            100.0 * data_wait_share,
            *peak_bytes as f64 / f64::from(1 << 30)
        )
    }
}

/// The middle of `values`; zero when there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_the_formula() {
        let model = ModelConfig::preset("covenant-72b").unwrap();
        let multiplied = 72_747_327_488_f64 - 262_144.0 * 8192.0;
        let expected = 6.0 * multiplied + 12.0 * 80.0 * 8192.0 * 2048.0;
        assert_eq!(flops_per_token(&model, 2048), expected);
        let tied = ModelConfig { tie_word_embeddings: true, ..model };
        assert_eq!(flops_per_token(&tied, 2048), expected);
    }

    #[test]
    fn peaks_come_from_the_data_sheet_where_there_is_one() {
        let peak = |dtype, gpu| Peak::new(dtype, gpu, || Ok::<_, ()>(7e9)).unwrap();
        let h100 = peak("bfloat16", Some("NVIDIA H100 80GB HBM3"));
        assert_eq!(h100.to_string(), "989.0 TFLOP/s (data sheet of NVIDIA H100 80GB HBM3, bfloat16)");
        assert_eq!(peak("bfloat16", Some("NVIDIA H100 PCIe")).flops_per_second, 756e12);
        assert_eq!(peak("bfloat16", Some("NVIDIA L40S")).flops_per_second, 362e12);
        for (dtype, gpu) in [("float32", Some("NVIDIA H100 80GB HBM3")), ("bfloat16", None)] {
            assert_eq!(
                peak(dtype, gpu).to_string(),
                format!("7.0 GFLOP/s (measured by a matrix product in {dtype})")
            );
        }
        let gauge = Gauge { flops_per_token: 1e9, peak: 1e12 };
        assert_eq!(gauge.mfu(500.0), 0.5);
        assert_eq!(Gauge { peak: 0.0, ..gauge }.mfu(500.0), 0.0);
    }
}
