//! What the same peers would reach without compression: dense DiLoCo averaging, and data-parallel AdamW, on the same
//! text, from the same seeds, with the same number of tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use brigade_protocol::assignment::Draw;
use brigade_protocol::{Digest, Parameters, PeerId};
use brigade_trainer::{TokenBatch, Trainer};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::config::{Compute, Participant};
use crate::roles::miner::train::train_window;
use crate::roles::model::Model;
use crate::roles::samples::{Samples, Ticket, batches};
use crate::run::{Run, checkpoint};
use crate::shutdown::Shutdown;

/// Sequences that go through the model at once when nothing is trained.
const MEASURE_BATCH: usize = 16;

/// What one peer trained in one window: H batches.
type Work = Vec<TokenBatch>;

/// Runs both baselines over the windows of a finished run. Returns held-out losses after every window, by name.
pub(super) async fn run(
    run: &Run,
    settings: &Participant,
    shutdown: &Shutdown,
) -> anyhow::Result<BTreeMap<String, Vec<f64>>> {
    // Side by side on one thread each: small models gain little from a second one.
    let compute = Compute { threads: Some(1), ..settings.compute.clone() };
    let bench = Bench::new(run, settings, compute).await?;
    let bars = MultiProgress::new();
    let (diloco, adamw) =
        tokio::try_join!(bench.dense_diloco(&bars, shutdown), bench.data_parallel(&bars, shutdown))?;
    Ok([("dense DiLoCo".to_owned(), diloco), ("data-parallel AdamW".to_owned(), adamw)].into())
}

struct Bench<'a> {
    run: &'a Run,
    compute: Compute,
    theta: Arc<Parameters>,
    /// By window: what every merged peer trained.
    work: Vec<Vec<Work>>,
    heldout: Arc<Vec<TokenBatch>>,
}

impl<'a> Bench<'a> {
    async fn new(run: &'a Run, settings: &Participant, compute: Compute) -> anyhow::Result<Self> {
        let samples = Samples::open(run, settings).await?;
        let first = checkpoint::at(run, 0).await?.context("the run has no first checkpoint")?;
        let theta = Arc::new(checkpoint::fetch_theta(run, &first.record).await?);
        let mut work = Vec::new();
        let mut previous_seed = run.id();
        while let Some(close) = run.close(work.len() as u64).await? {
            let open = run.open(close.record.window).await?.context("closed but not open")?.record;
            let mut window = Vec::new();
            for share in &close.record.accepted {
                window.push(one_peer(run, &samples, previous_seed, open.seed, share.peer).await?);
            }
            work.push(window);
            previous_seed = open.seed;
        }
        let heldout = samples.heldout(run.manifest().scoring.heldout_sequences as usize).await?;
        let heldout = Arc::new(batches(&heldout, MEASURE_BATCH, samples.sequence_length())?);
        Ok(Self { run, compute, theta, work, heldout })
    }

    /// Every peer trains H steps from the common θ; the next θ is the plain mean of theirs (arXiv 2311.08105 with outer
    /// SGD at rate 1). A peer's optimiser state stays with it.
    async fn dense_diloco(&self, bars: &MultiProgress, shutdown: &Shutdown) -> anyhow::Result<Vec<f64>> {
        let peers = self.work.iter().map(Vec::len).max().unwrap_or(0);
        let mut models = Vec::new();
        for _ in 0..peers {
            models.push(Model::start(self.run.manifest(), &self.compute).await?);
        }
        let bar = self.bar(bars, "dense DiLoCo");
        let mut theta = Arc::clone(&self.theta);
        let mut losses = Vec::new();
        for (number, window) in (0_u64..).zip(&self.work) {
            let mut sum: Vec<Vec<f32>> =
                theta.tensors().iter().map(|tensor| vec![0.0; tensor.len()]).collect();
            for (model, batches) in models.iter().zip(window) {
                let (start, training) = (Arc::clone(&theta), self.run.manifest().training.clone());
                let batches = batches.clone();
                let training = model.call(move |trainer| -> anyhow::Result<_> {
                    let batches = batches.iter().map(Ok);
                    let trained = train_window(trainer, &start, &training, number, 0, batches, |_| true)?;
                    trained.context("given up")?;
                    Ok(trainer.pseudo_gradient(start.tensors())?)
                });
                for (sum, delta) in sum.iter_mut().zip(&shutdown.or(training).await???) {
                    sum.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += delta);
                }
            }
            let rate = 1.0 / window.len().max(1) as f32;
            let tensors = Arc::make_mut(&mut theta).tensors_mut();
            for (theta, sum) in tensors.iter_mut().zip(&sum) {
                theta.iter_mut().zip(sum).for_each(|(theta, sum)| *theta -= rate * sum);
            }
            let measured = Arc::clone(&theta);
            losses.push(self.measure(models.first().context("nobody trained")?, Some(measured)).await?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(losses)
    }

    /// One model sees in every step the batches of all peers together.
    async fn data_parallel(&self, bars: &MultiProgress, shutdown: &Shutdown) -> anyhow::Result<Vec<f64>> {
        let model = Model::start(self.run.manifest(), &self.compute).await?;
        let theta = Arc::clone(&self.theta);
        model.call(move |trainer| trainer.load_parameters(theta.tensors())).await??;
        let bar = self.bar(bars, "data-parallel AdamW");
        let mut losses = Vec::new();
        for (number, window) in (0_u64..).zip(&self.work) {
            let training = self.run.manifest().training.clone();
            let first_step = number * u64::from(training.inner_steps);
            let steps = joined(window)?;
            let trained = model.call(move |trainer| -> anyhow::Result<()> {
                for (step, batch) in (first_step..).zip(&steps) {
                    trainer.inner_step(batch, training.learning_rate_at(step))?;
                }
                Ok(())
            });
            shutdown.or(trained).await???;
            losses.push(self.measure(&model, None).await?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(losses)
    }

    /// Held-out loss of `theta`, or of the model as it is.
    async fn measure(&self, model: &Model, theta: Option<Arc<Parameters>>) -> anyhow::Result<f64> {
        let heldout = Arc::clone(&self.heldout);
        let measure = move |trainer: &mut Trainer| -> anyhow::Result<f64> {
            if let Some(theta) = theta {
                trainer.load_parameters(theta.tensors())?;
            }
            let losses = heldout.iter().map(|batch| trainer.losses(batch)).collect::<Result<Vec<_>, _>>()?;
            let losses = losses.concat();
            Ok(losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64)
        };
        model.call(measure).await?
    }

    fn bar(&self, bars: &MultiProgress, name: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix:>20} {bar:30} {pos}/{len} windows, {eta} left");
        let bar = bars.add(ProgressBar::new(self.work.len() as u64).with_prefix(name));
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

async fn one_peer(
    run: &Run,
    samples: &Samples,
    previous_seed: Digest,
    seed: Digest,
    peer: PeerId,
) -> anyhow::Result<Work> {
    let training = &run.manifest().training;
    let (steps, size) = (training.inner_steps as usize, training.batch_size as usize);
    let drawn =
        samples.draw(Ticket { previous_seed, seed, draw: Draw::Assigned(peer) }, steps * size).await?;
    batches(&drawn, size, samples.sequence_length())
}

/// Step by step, the batches of all peers as one.
fn joined(window: &[Work]) -> anyhow::Result<Vec<TokenBatch>> {
    let steps = window.iter().map(Vec::len).min().unwrap_or(0);
    (0..steps)
        .map(|step| {
            let parts: Vec<&TokenBatch> = window.iter().map(|peer| &peer[step]).collect();
            let tokens = parts.iter().flat_map(|part| part.tokens()).copied().collect();
            let sequences = parts.iter().map(|part| part.sequences()).sum();
            Ok(TokenBatch::new(tokens, sequences, parts[0].sequence_length())?)
        })
        .collect()
}
