//! The run manifest: everything that a run's participants must agree on before the first window.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gauntlet::Gauntlet;
use crate::{Anneal, DecayType, Digest, Error, ModelConfig, PeerId, Record, Schedule, Signed, Timestamp};

/// The version of records and formats that this crate writes, and the latest that it reads. It reads all before, from 1.
pub const FORMAT_VERSION: u32 = 1;

/// The signed statement that a run is. Its SHA-256 is the run's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// What people call the run.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who opens, cuts off and closes windows.
    pub aggregator: Official,
    /// Whose scores count.
    pub validators: Vec<Validator>,
    /// The shape of θ.
    pub model: ModelConfig,
    /// SHA-256 of `data/dataset.json`.
    pub dataset: Digest,
    /// How a peer trains.
    pub training: Training,
    /// How a peer compresses its pseudo-gradient.
    pub compression: Compression,
    /// How updates become a delta.
    pub outer: Outer,
    /// How windows pass.
    pub windows: Windows,
    /// How updates are scored.
    pub scoring: Scoring,
    /// How they are judged.
    #[serde(default)]
    pub gauntlet: Gauntlet,
    /// State root of the first θ, `checkpoints/0000000000`.
    pub initial_state_root: Digest,
}

impl Record for Manifest {
    const TYPE: &'static str = "application/vnd.brigade.manifest+json";
    const MAX_BYTES: u64 = 1 << 20;

    fn check_version(payload: &[u8]) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        // Where there is no such number, reading the whole says what is wrong.
        serde_json::from_slice(payload).map_or(Ok(()), |Version { version }| check_version(version))
    }
}

/// A participant that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Official {
    /// Its signing key.
    pub id: PeerId,
    /// Its age recipient (`age1…`): peers seal their bucket's read key to it.
    pub seal_to: String,
}

/// A validator and its say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// Its signing key.
    pub id: PeerId,
    /// Its age recipient.
    pub seal_to: String,
    /// Its weight in medians over validators.
    #[serde(default = "one")]
    pub stake: u64,
}

/// How a peer trains: `H` steps of the inner optimiser from the window's θ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// H: inner steps in a window.
    pub inner_steps: u32,
    /// Sequences in an inner step, of one peer.
    pub batch_size: u32,
    /// Tokens in a sequence.
    pub sequence_length: u32,
    /// Shards that a peer draws a window's sequences from.
    pub shards_per_window: u32,
    /// Peak learning rate of the inner optimiser.
    pub learning_rate: f64,
    /// Learning rate at the end of the decay.
    pub min_learning_rate: f64,
    /// Inner steps of linear warm-up, from the run's start.
    pub warmup_steps: u64,
    /// What comes after the warm-up.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Inner steps that `wsd` holds the peak, from the end of the warm-up.
    #[serde(skip_serializing_if = "is_default")]
    pub stable_steps: u64,
    /// Inner steps, from the run's start, until the decay reaches its end; 0 holds the peak of the cosine.
    pub decay_steps: u64,
    /// The shape of the decay of `wsd`.
    #[serde(skip_serializing_if = "is_default")]
    pub decay_type: DecayType,
    /// The end of the run; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anneal: Option<Anneal>,
    /// Who makes a step of a gradient.
    #[serde(skip_serializing_if = "is_default")]
    pub optimizer: Optimizer,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// AdamW's ε.
    pub eps: f64,
    /// Decoupled weight decay, on matrices and embeddings.
    pub weight_decay: f64,
    /// Global gradient norm that a step is clipped to.
    pub max_grad_norm: f64,
}

/// The inner optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW (arXiv 1711.05101).
    #[default]
    AdamW,
    /// Muon for the matrices of blocks, scaled to AdamW's learning rate and decay (arXiv 2502.16982); AdamW for the rest.
    Muon,
}

impl Default for Training {
    /// Covenant-72B's settings (arXiv 2603.08163).
    fn default() -> Self {
        Self {
            inner_steps: 30,
            batch_size: 192,
            sequence_length: 2048,
            shards_per_window: 2,
            learning_rate: 1.2e-4,
            min_learning_rate: 1.2e-5,
            warmup_steps: 1500,
            schedule: Schedule::Cosine,
            stable_steps: 0,
            decay_steps: 0,
            decay_type: DecayType::Linear,
            anneal: None,
            optimizer: Optimizer::AdamW,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
        }
    }
}

impl Training {
    /// Tokens that one peer trains in a window.
    pub fn tokens_per_window(&self) -> u64 {
        u64::from(self.inner_steps) * u64::from(self.batch_size) * u64::from(self.sequence_length)
    }
}

/// SparseLoCo's compression (arXiv 2508.15706).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// k: values kept of every 4096.
    pub top_k: u32,
    /// Bits of a kept value's code: 1 is its sign, each further one doubles the magnitudes that are told apart.
    pub bits: u32,
    /// β: what error feedback keeps from one window to the next.
    pub error_feedback_decay: f32,
}

impl Default for Compression {
    fn default() -> Self {
        Self { top_k: 64, bits: 1, error_feedback_decay: 0.95 }
    }
}

/// The outer step: θ ← θ − α · mean over contributors, plain SGD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outer {
    /// α.
    pub learning_rate: f32,
    /// Bits of a delta's code, as for updates.
    pub delta_bits: u32,
    /// Values that a delta keeps of every 4096; 0: all that an update has kept.
    pub delta_top_k: u32,
    /// Clip every update's norm to the median over the window's updates.
    pub clip_to_median_norm: bool,
}

impl Default for Outer {
    fn default() -> Self {
        Self { learning_rate: 1.0, delta_bits: 2, delta_top_k: 0, clip_to_median_norm: true }
    }
}

/// How windows pass. Durations are in seconds by the run bucket's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Windows {
    /// Number of windows in the run; `None`: until the operator ends it.
    pub total: Option<u64>,
    /// From open to the deadline for receipts.
    pub train_seconds: u64,
    /// From cutoff to the moment at which missing scores are no longer waited for.
    pub score_seconds: u64,
    /// Cut off as soon as every active miner of the roster has delivered.
    pub close_when_complete: bool,
    /// Active miners that the first window waits for.
    pub start_peers: u32,
    /// Active miners without which no window opens.
    pub min_peers: u32,
    /// Active miners beyond which nobody is admitted.
    pub max_peers: u32,
    /// Windows in a row that a miner may miss before the roster stops waiting for it.
    pub evict_after: u32,
    /// Windows between checkpoints.
    pub checkpoint_every: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            total: None,
            train_seconds: 20 * 60,
            score_seconds: 120,
            close_when_complete: true,
            start_peers: 1,
            min_peers: 1,
            max_peers: 256,
            evict_after: 2,
            checkpoint_every: 10,
        }
    }
}

impl Windows {
    /// From open to the deadline.
    pub fn train(&self) -> Duration {
        Duration::from_secs(self.train_seconds)
    }

    /// From the cutoff on: the part of the time for scores in which validators read and measure; the rest is for sending.
    pub fn measuring(&self) -> Duration {
        self.score().mul_f64(0.6)
    }

    /// From cutoff to the end of scoring.
    pub fn score(&self) -> Duration {
        Duration::from_secs(self.score_seconds)
    }

    /// Whether `window` is past the end of the run.
    pub fn is_over(&self, window: u64) -> bool {
        self.total.is_some_and(|total| window >= total)
    }

    /// Whether θ before `window` is published as a checkpoint.
    pub fn is_checkpoint(&self, window: u64) -> bool {
        window.is_multiple_of(self.checkpoint_every) || self.total == Some(window)
    }
}

/// How validators score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scoring {
    /// Sequences in one loss measurement; two at least, or nothing could be said of how sure it is.
    pub sequences: u32,
    /// Held-out sequences in an evaluation.
    pub heldout_sequences: u32,
    /// The most sequences of a kind that are measured for a peer of whom fewer do not decide; never fewer than `sequences`.
    pub max_sequences: u32,
    /// How sure a loss increase must be before an update counts as harmful, in sigmas of the normal distribution; for
    /// few sequences that is more standard errors, by Student's t.
    pub harm_sigmas: f64,
    /// The share of the median peer's improvement below which an update counts as idle.
    pub least_merit: f64,
    /// The same for a newcomer, whose error feedback is still empty ([`Gauntlet::grace_windows`](crate::gauntlet::Gauntlet)).
    pub newcomer_merit: f64,
    /// A peer in good standing is measured on all sequences in one of so many windows, and as a rule on the first few in the others.
    pub inspect_every: u32,
    /// Of how many of its first sequences a receipt says what loss θ had; no more than a batch has.
    pub start_sequences: u32,
    /// How far from a validator's those losses may be, root mean square, nats a token: what other hardware and other kernels
    /// make of the same θ.
    pub start_tolerance: f64,
}

impl Default for Scoring {
    fn default() -> Self {
        Self {
            sequences: 8,
            heldout_sequences: 64,
            max_sequences: 64,
            harm_sigmas: 3.0,
            least_merit: 0.25,
            newcomer_merit: 0.05,
            inspect_every: 3,
            start_sequences: 4,
            start_tolerance: 0.01,
        }
    }
}

/// Refuses what this program cannot know.
fn check_version(version: u32) -> Result<(), Error> {
    let reason = match version {
        1..=FORMAT_VERSION => return Ok(()),
        0 => "is 0; the first version is 1".to_owned(),
        later => format!(
            "is {later}, and this program knows none after {FORMAT_VERSION}: upgrade brigade on this machine"
        ),
    };
    Err(Error::manifest("version", reason))
}

fn one() -> u64 {
    1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Manifest {
    /// Checks every bound that later arithmetic relies on.
    ///
    /// # Errors
    /// [`Error::Manifest`] names the field and what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        check_version(self.version)?;
        self.model.validate()?;
        let (t, c, o, w) = (&self.training, &self.compression, &self.outer, &self.windows);
        let bounded = [
            ("training.inner_steps", u64::from(t.inner_steps), 1, 100_000),
            ("training.batch_size", u64::from(t.batch_size), 1, 1 << 20),
            ("training.sequence_length", u64::from(t.sequence_length), 1, 1 << 20),
            ("training.shards_per_window", u64::from(t.shards_per_window), 1, 1024),
            ("compression.top_k", u64::from(c.top_k), 1, 4096),
            ("compression.bits", u64::from(c.bits), 1, 4),
            ("outer.delta_bits", u64::from(o.delta_bits), 1, 4),
            ("outer.delta_top_k", u64::from(o.delta_top_k), 0, 4096),
            ("windows.train_seconds", w.train_seconds, 1, 7 * 86_400),
            ("windows.score_seconds", w.score_seconds, 1, 7 * 86_400),
            ("windows.min_peers", u64::from(w.min_peers), 1, 65_536),
            ("windows.max_peers", u64::from(w.max_peers), u64::from(w.min_peers.max(w.start_peers)), 65_536),
            ("windows.evict_after", u64::from(w.evict_after), 1, 1 << 20),
            ("windows.checkpoint_every", w.checkpoint_every, 1, 1 << 20),
            ("scoring.sequences", u64::from(self.scoring.sequences), 2, 1 << 20),
            ("scoring.heldout_sequences", u64::from(self.scoring.heldout_sequences), 1, 1 << 20),
            ("scoring.max_sequences", u64::from(self.scoring.max_sequences), 2, 1 << 20),
            ("scoring.inspect_every", u64::from(self.scoring.inspect_every), 1, 1 << 20),
            ("scoring.start_sequences", u64::from(self.scoring.start_sequences), 1, 64),
        ];
        for (field, value, low, high) in bounded {
            if !(low..=high).contains(&value) {
                return Err(Error::manifest(field, format!("is {value}, must be from {low} to {high}")));
            }
        }
        let longest = self.model.max_position_embeddings;
        if t.sequence_length as usize > longest {
            let reason =
                format!("is {}, longer than model.max_position_embeddings = {longest}", t.sequence_length);
            return Err(Error::manifest("training.sequence_length", reason));
        }
        self.gauntlet.validate()?;
        self.training.validate_schedule()?;
        self.validate_rates()
    }

    fn validate_rates(&self) -> Result<(), Error> {
        let (t, c, o) = (&self.training, &self.compression, &self.outer);
        let rates = [
            ("training.learning_rate", t.learning_rate, 1e3),
            ("training.min_learning_rate", t.min_learning_rate, t.learning_rate),
            ("training.betas[0]", t.betas[0], 0.999_999),
            ("training.betas[1]", t.betas[1], 0.999_999),
            ("training.eps", t.eps, 1.0),
            ("training.weight_decay", t.weight_decay, 10.0),
            ("training.max_grad_norm", t.max_grad_norm, 1e9),
            ("compression.error_feedback_decay", f64::from(c.error_feedback_decay), 1.0),
            ("outer.learning_rate", f64::from(o.learning_rate), 1e3),
            ("scoring.harm_sigmas", self.scoring.harm_sigmas, 1e6),
            ("scoring.least_merit", self.scoring.least_merit, 1.0),
            ("scoring.newcomer_merit", self.scoring.newcomer_merit, self.scoring.least_merit),
            ("scoring.start_tolerance", self.scoring.start_tolerance, 1e3),
        ];
        for (field, value, high) in rates {
            if !(0.0..=high).contains(&value) {
                return Err(Error::manifest(field, format!("is {value}, must be from 0 to {high}")));
            }
        }
        Ok(())
    }

    /// Of how many sequences, the first of a window, a receipt says what loss θ had.
    pub fn start_sequences(&self) -> usize {
        self.scoring.start_sequences.min(self.training.batch_size) as usize
    }

    /// The entry of validator `id`.
    pub fn validator(&self, id: &PeerId) -> Option<&Validator> {
        self.validators.iter().find(|validator| validator.id == *id)
    }

    /// The age recipients of everybody who must read peers' buckets.
    pub fn seal_to(&self) -> impl Iterator<Item = &str> {
        let validators = self.validators.iter().map(|validator| validator.seal_to.as_str());
        std::iter::once(self.aggregator.seal_to.as_str()).chain(validators)
    }
}

impl Signed<Manifest> {
    /// The run's id: SHA-256 of the manifest's signed bytes.
    pub fn run(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, SigningKey, fixtures};

    /// What a reader says to `payload`, signed as a manifest.
    fn read(payload: &serde_json::Value) -> Result<Signed<Manifest>, Error> {
        #[derive(Serialize, Deserialize)]
        struct Any(serde_json::Value);
        impl Record for Any {
            const TYPE: &'static str = Manifest::TYPE;
            const MAX_BYTES: u64 = Manifest::MAX_BYTES;
        }
        Envelope::sign(Any(payload.clone()), &SigningKey::from_seed(&[0; 32])).unwrap().0.open()
    }

    #[test]
    fn every_known_version_is_read() {
        for version in 1..=FORMAT_VERSION {
            let manifest = Manifest { version, ..fixtures::manifest(&[1]) };
            manifest.validate().unwrap();
            read(&serde_json::to_value(&manifest).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_later_version_is_refused_by_its_number_and_with_the_remedy() {
        let later = Manifest { version: FORMAT_VERSION + 1, ..fixtures::manifest(&[1]) };
        let mut payload = serde_json::to_value(&later).unwrap();
        let plain = read(&payload).unwrap_err().to_string();
        // As a later program would write it: with a field of which nobody knows yet.
        payload["new_term"] = true.into();
        for message in
            [plain, read(&payload).unwrap_err().to_string(), later.validate().unwrap_err().to_string()]
        {
            assert_eq!(
                message,
                "manifest: version is 2, and this program knows none after 1: upgrade brigade on this machine"
            );
        }
        let never = Manifest { version: 0, ..later };
        assert!(never.validate().unwrap_err().to_string().contains("version is 0"));
    }

    #[test]
    fn what_an_earlier_program_wrote_is_read_and_what_it_can_do_is_written_for_it() {
        let whole = fixtures::manifest(&[1]);
        let mut earlier = serde_json::to_value(&whole).unwrap();
        // Terms at their defaults that came later stand in no manifest, so that a program without them still reads it.
        for later in ["schedule", "stable_steps", "decay_type", "anneal", "optimizer"] {
            assert!(earlier["training"].get(later).is_none(), "{later}");
        }
        // Terms that are left out are at their defaults, whoever left them out.
        for section in ["compression", "outer", "windows", "scoring"] {
            earlier[section] = serde_json::json!({});
        }
        earlier.as_object_mut().unwrap().remove("gauntlet");
        assert_eq!(read(&earlier).unwrap().record, whole);
    }

    #[test]
    fn an_unknown_term_of_a_known_version_is_refused() {
        let mut payload = serde_json::to_value(fixtures::manifest(&[1])).unwrap();
        payload["new_term"] = true.into();
        let error = read(&payload).unwrap_err();
        assert!(error.to_string().contains("unknown field `new_term`"), "{error}");
    }

    #[test]
    fn defaults_are_the_papers() {
        assert_eq!(Training::default().tokens_per_window(), 30 * 192 * 2048);
        assert_eq!(Compression::default().top_k, 64);
        assert_eq!(Compression::default().error_feedback_decay, 0.95);
    }
}
