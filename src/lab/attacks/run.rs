//! One run under attack, from its first weights to its last window: records, codec, checks, scores, judgement and merge are those
//! of a real run; what it leaves out is the store, the clock and the processes.

use std::sync::Arc;

use anyhow::Context as _;
use brigade_codec::{CodecConfig, Delta, DeltaBinding, DeltaConfig, Layout, Update, gram, merge};
use brigade_protocol::gauntlet::{Case, Gram, Judgement, Standing, judge};
use brigade_protocol::{Manifest, Open, Parameters, PeerId, Signed, SigningKey};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::attack::Attack;
use super::deliver::{Delivery, Dense, Desk, Sight, forged};
use super::outcome::{Outcome, Seen};
use crate::lab::peers::{Peers, Work};
use crate::lab::text::Text;
use crate::scoring::Measured;

/// The number of the stream that belongs to nobody; peers' streams have their own numbers, foreign ones lie beyond.
pub(super) const NOBODY: u64 = 1 << 20;

/// The signing key of number `n`; validators are at 200 and up.
pub(super) fn key(n: usize) -> SigningKey {
    SigningKey::from_seed(&[n as u8; 32])
}

/// Numbers of the validators' keys.
pub(super) const VALIDATORS: [usize; 3] = [200, 201, 202];

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) attack: Option<Attack>,
    pub(super) honest: usize,
    pub(super) cheats: usize,
    pub(super) seed: u64,
    pub(super) windows: u64,
}

pub(super) struct Run<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) text: &'a Text,
    pub(super) setting: Setting,
    pub(super) layout: Layout,
    pub(super) peers: Peers<'a>,
    pub(super) theta: Arc<Parameters>,
    pub(super) theta_before: Arc<Parameters>,
    /// Error feedback, by peer, and the aggregator's.
    feedback: Vec<Dense>,
    merged_feedback: Dense,
    pub(super) standings: Vec<Standing>,
    /// What every cheat has sent last.
    sent: Vec<Option<Dense>>,
    chance: ChaCha8Rng,
}

impl<'a> Run<'a> {
    pub(super) fn new(manifest: &'a Manifest, text: &'a Text, setting: Setting) -> anyhow::Result<Self> {
        let tensors = manifest.model.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape));
        let layout = Layout::new(tensors)?;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&setting.seed.to_le_bytes());
        let theta = Arc::new(Parameters::initialise(&manifest.model, &seed));
        let count = setting.honest + setting.cheats;
        let peers = Peers::new(text, &manifest.model, &manifest.training, count, setting.seed)?;
        Ok(Self {
            manifest,
            text,
            setting,
            peers,
            theta_before: Arc::clone(&theta),
            theta,
            feedback: vec![layout.zeros(); count],
            merged_feedback: layout.zeros(),
            standings: Vec::new(),
            sent: vec![None; setting.cheats],
            chance: ChaCha8Rng::from_seed(seed),
            layout,
        })
    }

    /// # Errors
    /// When something fails that is no outcome. That training diverges is one: the run ends there, and its loss is no number.
    pub(super) fn run(mut self, mut passed: impl FnMut()) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome {
            losses: Vec::new(),
            begins: self.setting.attack.map_or(0, Attack::begins),
            due: usize::from(matches!(self.setting.attack, Some(Attack::Colluders | Attack::SybilSplit))),
            seen: Vec::new(),
        };
        for window in 0..self.setting.windows {
            match self.window(window) {
                Ok(seen) => outcome.seen.extend(seen),
                Err(error) if is_divergence(&error) => {
                    outcome.losses.push(f64::NAN);
                    return Ok(outcome);
                }
                Err(error) => return Err(error),
            }
            outcome.losses.push(self.peers.measure(&self.theta)?);
            passed();
        }
        Ok(outcome)
    }

    pub(super) fn number(&self, peer: &PeerId) -> Option<usize> {
        (0..self.setting.honest + self.setting.cheats).find(|&n| key(n).peer_id() == *peer)
    }

    /// One window, and what was seen of everybody in it.
    fn window(&mut self, window: u64) -> anyhow::Result<Vec<Seen>> {
        let open = self.open(window)?;
        let (start, theta) = (self.theta.root(), Arc::clone(&self.theta));
        let deliveries = self.deliveries(&open, window)?;
        let (cutoff, updates) = self.cutoff(&open, deliveries)?;
        let (scores, measured) = self.scores(&cutoff, &updates, window)?;
        let of: Vec<&Update> = updates.iter().collect();
        let gram = Gram::new(gram(&of)?).context("products that are no numbers")?;
        let case = Case {
            manifest: self.manifest,
            cutoff: &cutoff.record,
            heard: &scores,
            gram: &gram,
            previous: &self.standings,
        };
        let mut judgement = judge(&case);
        judgement.excluded.extend(cutoff.record.excluded.iter().cloned());
        let weighted: Vec<(&Update, f32)> = judgement
            .shares
            .iter()
            .filter_map(|share| {
                let at = cutoff.record.pinned.iter().position(|pinned| pinned.peer == share.peer)?;
                Some((&updates[at], share.coefficient))
            })
            .filter(|(_, coefficient)| *coefficient != 0.0)
            .collect();
        if !weighted.is_empty() {
            let binding = DeltaBinding { run: open.record.run.0, window, start_state_root: start.0 };
            let config = DeltaConfig::default();
            let bytes = merge(&self.layout, &binding, &config, &weighted, &mut self.merged_feedback)?;
            let delta = Delta::parse(bytes, &self.layout, &config, &binding)?;
            delta.apply(Arc::make_mut(&mut self.theta).tensors_mut())?;
        }
        self.theta_before = theta;
        let count = self.setting.honest + self.setting.cheats;
        let seen = (0..count).map(|n| self.seen(n, window, &judgement, &measured)).collect();
        self.standings = judgement.standings;
        Ok(seen)
    }

    fn seen(&self, n: usize, window: u64, judgement: &Judgement, measured: &[Measured]) -> Seen {
        let peer = key(n).peer_id();
        let excluded = judgement.excluded.iter().find(|exclusion| exclusion.peer == peer).cloned();
        let standing = judgement.standings.iter().find(|standing| standing.peer == peer);
        let measured = measured.iter().find(|measured| measured.score.peer == peer);
        let gain = measured.and_then(|measured| measured.score.unassigned);
        let trace = measured.and_then(|measured| measured.score.trace);
        Seen {
            window,
            peer: n,
            cheats: n >= self.setting.honest,
            gain: gain.map(|gain| gain.mean),
            gain_error: gain.map(|gain| gain.standard_error),
            trace: trace.map(|trace| trace.mean),
            trace_error: trace.map(|trace| trace.standard_error),
            start_gap: measured.and_then(|measured| measured.score.start_gap),
            passes: measured.map_or(0, |measured| measured.score.passes),
            excluded,
            credit: standing.map_or(0.0, |standing| standing.credit),
            skill: standing.map_or(0.0, |standing| standing.rating.ordinal()),
            weight: standing.map_or(0.0, |standing| standing.weight),
            gains: measured.map(|measured| measured.gains.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn codec(&self) -> CodecConfig {
        let compression = &self.manifest.compression;
        CodecConfig {
            top_k: compression.top_k,
            bits: brigade_codec::CodeBits::One,
            error_feedback_decay: compression.error_feedback_decay,
        }
    }

    /// Everybody's delivery: the honest in order, then the cheats, who have seen them.
    fn deliveries(&mut self, open: &Signed<Open>, window: u64) -> anyhow::Result<Vec<Delivery>> {
        let layout = self.layout.clone();
        let desk = Desk { layout: &layout, codec: self.codec(), open };
        let (mut deliveries, mut honest) = (Vec::new(), Vec::new());
        for n in 0..self.setting.honest {
            let theta = Arc::clone(&self.theta);
            let delta = self.peers.work(n, window, &theta, Work::default())?;
            let update = desk.compress(key(n).peer_id(), &delta, &mut self.feedback[n])?;
            honest.push(desk.values(key(n).peer_id(), &update)?);
            let start_losses = self.start_losses(n, window, &theta)?;
            deliveries.push(desk.deliver(&key(n), update, start_losses, n as u64 + 1)?);
        }
        let Some(attack) = self.setting.attack else { return Ok(deliveries) };
        // What the first of the cheats has made, for those who share it.
        let mut shared = None;
        for number in 0..self.setting.cheats {
            let n = self.setting.honest + number;
            let own = self.trained(attack, number, window, &desk, &mut shared)?;
            let sight = Sight {
                honest: &honest,
                own: own.as_ref().map(|(_, values)| values),
                before: self.sent[number].as_ref(),
                number,
                cheats: self.setting.cheats,
            };
            let forged = forged(attack, &sight, window, &mut self.chance)?;
            let peer = key(n).peer_id();
            let update = match (&forged, own) {
                (Some(values), _) => desk.file(peer, values)?,
                (None, Some((file, _))) => file,
                (None, None) => continue,
            };
            self.sent[number] = Some(desk.values(peer, &update)?);
            let order = if attack == Attack::Late { 501 } else { 100 + number as u64 };
            // Whoever has the window's θ can say what its losses are, whatever it sends.
            let is_stale = attack == Attack::StaleStart;
            let theta = Arc::clone(if is_stale { &self.theta_before } else { &self.theta });
            let start_losses = self.start_losses(n, window, &theta)?;
            let delivery = desk.deliver(&key(n), update, start_losses, order)?;
            deliveries.push(spoilt(attack, window, delivery));
        }
        Ok(deliveries)
    }

    fn start_losses(&mut self, n: usize, window: u64, theta: &Parameters) -> anyhow::Result<Vec<f32>> {
        let first = self.peers.start(n, window, self.manifest.start_sequences())?;
        let trainer = self.peers.trainer();
        trainer.load_parameters(theta.tensors())?;
        Ok(trainer.losses(&first)?)
    }

    /// The honest update of cheat `number`, file and values, if its cheat needs one.
    fn trained(
        &mut self,
        attack: Attack,
        number: usize,
        window: u64,
        desk: &Desk<'_>,
        shared: &mut Option<(Vec<u8>, Dense)>,
    ) -> anyhow::Result<Option<(Vec<u8>, Dense)>> {
        let shares = matches!(attack, Attack::Colluders | Attack::SybilSplit);
        if shares && shared.is_some() {
            return Ok(shared.clone());
        }
        if attack.is_idle() || matches!(attack, Attack::Noise | Attack::LyingValidator) {
            return Ok(None);
        }
        let n = self.setting.honest + number;
        let stale = attack == Attack::StaleStart;
        let theta = Arc::clone(if stale { &self.theta_before } else { &self.theta });
        let work = match attack {
            Attack::RandomData => Work { stream: Some(NOBODY + 1 + n as u64), steps: None },
            Attack::PartialWork => Work { steps: Some(1), ..Work::default() },
            _ => Work::default(),
        };
        let delta = self.peers.work(n, window, &theta, work)?;
        let peer = key(n).peer_id();
        let before = self.feedback[n].clone();
        let file = desk.compress(peer, &delta, &mut self.feedback[n])?;
        let values = if attack == Attack::SybilSplit {
            // Before anything is chosen: every part may have its own choice.
            let decay = self.manifest.compression.error_feedback_decay;
            let sum = |(e, delta): (&Vec<f32>, &Vec<f32>)| {
                e.iter().zip(delta).map(|(e, d)| decay * e + d).collect()
            };
            before.iter().zip(&delta).map(sum).collect()
        } else {
            desk.values(peer, &file)?
        };
        if shares {
            *shared = Some((file.clone(), values.clone()));
        }
        Ok(Some((file, values)))
    }
}

fn is_divergence(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(brigade_trainer::Error::NotFinite { .. })))
}

/// What becomes of a delivery on its way, if that is the cheat.
pub(super) fn spoilt(attack: Attack, window: u64, mut delivery: Delivery) -> Delivery {
    let bytes = &mut delivery.update;
    match attack {
        Attack::TwoFaced => {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        }
        Attack::Malformed => match window % 5 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.extend([0; 64]),
            2 => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
            3 => bytes.clear(),
            _ => delivery.receipt.truncate(100),
        },
        _ => {}
    }
    delivery
}
