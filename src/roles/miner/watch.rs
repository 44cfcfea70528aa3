//! What a person sees while a miner trains: a bar, a line a window, and `metrics.jsonl`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use brigade_protocol::{Digest, Manifest};
use brigade_trainer::Trainer;
use indicatif::ProgressBar;

use super::train::Trained;
use crate::bench::memory;
use crate::events::{Event, Reporter};
use crate::roles::model::Model;
use crate::terminal;
use crate::throughput::{Gauge, Metrics, Peak, flops_per_token, gpu_name};

/// The file in the state folder with a line a window.
const METRICS: &str = "metrics.jsonl";

/// Shows and keeps what training measures.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    reporter: Reporter,
    gauge: Gauge,
    run: Digest,
    metrics: PathBuf,
    /// With `--json` none: scripts have no use for one.
    bar: Option<ProgressBar>,
    /// The peak of the window before, in bytes, for the bar; on a CPU it is read from the system instead.
    gpu_peak: Option<Arc<AtomicU64>>,
}

impl Watch {
    /// Finds out what the device can do, and tells it.
    ///
    /// # Errors
    /// When the trainer cannot multiply matrices, which no later step would survive either.
    pub(super) async fn start(
        model: &Model,
        manifest: &Manifest,
        run: Digest,
        state: &Path,
        reporter: Reporter,
    ) -> anyhow::Result<Self> {
        let measured = model.call(|trainer| {
            let gpu = trainer.is_on_gpu().then(gpu_name).flatten();
            let peak = Peak::new(trainer.product_dtype(), gpu.as_deref(), || trainer.measure_matmul());
            peak.map(|peak| (trainer.device_name(), peak, trainer.is_on_gpu()))
        });
        let (device, peak, is_on_gpu) = measured.await?.context("cannot measure the device")?;
        let length = manifest.training.sequence_length as usize;
        let gauge =
            Gauge { flops_per_token: flops_per_token(&manifest.model, length), peak: peak.flops_per_second };
        reporter.tell(Event::Device { device, parameters: manifest.model.num_parameters(), peak });
        let bar = (reporter == Reporter::Log).then(|| terminal::bar(manifest.training.inner_steps.into()));
        Ok(Self {
            reporter,
            gauge,
            run,
            metrics: state.join(METRICS),
            bar,
            gpu_peak: is_on_gpu.then(Arc::default),
        })
    }

    /// Lets the memory's peaks start anew.
    pub(super) fn begin(trainer: &Trainer) {
        memory::forget_peak();
        // Where this is refused the peak stays what it was: then too much is reported, never too little.
        let _ = trainer.forget_peak();
    }

    /// The most memory since [`Watch::begin`], in bytes.
    pub(super) fn peak_bytes(trainer: &Trainer) -> u64 {
        let device = trainer.peak_device_bytes().ok().flatten();
        device.unwrap_or_else(|| memory::resident().1)
    }

    /// Tells a step.
    pub(super) fn step(&self, event: Event) {
        if let (
            Some(bar),
            Event::Step { window, step, loss, grad_norm, tokens_per_second, data_wait_share, .. },
        ) = (&self.bar, &event)
        {
            let peak = self.gpu_peak.as_ref().map(|peak| peak.load(Ordering::Relaxed));
            bar.set_message(format!(
                "window {window} loss {loss:.3} gradient norm {grad_norm:.2}, {tokens_per_second:.0} tok/s, \
                 {:.1} % MFU, {:.1} % data wait, peak {:.2} GiB",
                100.0 * self.gauge.mfu(*tokens_per_second),
                100.0 * data_wait_share,
                peak.unwrap_or_else(|| memory::resident().1) as f64 / f64::from(1 << 30),
            ));
            bar.set_position(u64::from(*step));
        }
        self.reporter.tell(event);
    }

    /// Tells and keeps what a window's inner steps came to.
    pub(super) fn trained(&self, window: u64, trained: &Trained, peak_bytes: u64) {
        self.gpu_peak.iter().for_each(|peak| peak.store(peak_bytes, Ordering::Relaxed));
        let tokens_per_second = trained.tokens as f64 / trained.seconds;
        let metrics = Metrics {
            window,
            steps: trained.steps,
            tokens: trained.tokens,
            loss: trained.loss,
            grad_norm: trained.grad_norm,
            tokens_per_second,
            mfu: self.gauge.mfu(tokens_per_second),
            step_seconds: trained.step_seconds,
            data_wait_share: trained.data_wait_share,
            peak_bytes,
        };
        if let Err(error) = self.keep(&metrics) {
            let message = format!("cannot write {}: {error:#}; training goes on", self.metrics.display());
            self.reporter.tell(Event::Warning { message });
        }
        self.reporter.tell(Event::Trained(metrics));
    }

    /// Takes the bar away until the next step.
    pub(super) fn rest(&self) {
        self.bar.iter().for_each(|bar| {
            bar.set_position(0);
            bar.set_message("");
        });
    }

    fn keep(&self, metrics: &Metrics) -> anyhow::Result<()> {
        let mut line = serde_json::to_value(metrics)?;
        line["time"] = chrono::Utc::now().timestamp().into();
        line["run"] = self.run.to_string().into();
        // One write a line: a reader never sees half of one.
        let mut file = File::options().create(true).append(true).open(&self.metrics)?;
        Ok(file.write_all(format!("{line}\n").as_bytes())?)
    }
}
