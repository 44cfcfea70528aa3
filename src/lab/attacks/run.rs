//! One run under attack, from its first weights to its last window: records, codec, checks, scores, judgement and merge are those
//! of a real run; what it leaves out is the store, the clock and the processes.

use std::sync::Arc;

use anyhow::Context as _;
use brigade_codec::{CodecConfig, Delta, DeltaBinding, DeltaConfig, Layout, Update, gram, merge};
use brigade_protocol::checks::Expected;
use brigade_protocol::gauntlet::{Case, Gram, Judgement, Standing, judge};
use brigade_protocol::{
    Cutoff, Digest, Envelope, Exclusion, Improvement, Manifest, Open, Parameters, PeerId, Pinned, Reason,
    Receipt, Scores, Signed, SigningKey, Timestamp,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::attack::Attack;
use super::deliver::{Delivery, Dense, Desk, Sight, forged, update_key};
use crate::lab::peers::{Peers, Work};
use crate::lab::text::Text;
use crate::roles::validator::score::stages;
use crate::scoring::{Candidate, Exam};

/// The number of the stream that belongs to nobody; peers' streams have their own numbers, foreign ones lie beyond.
const NOBODY: u64 = 1 << 20;

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

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Held-out loss at the end, nats a token.
    pub(super) loss: f64,
    /// Windows from the first cheat until no cheat has any weight again; `None` if that never happens.
    pub(super) windows_to_zero_weight: Option<u64>,
    /// Why updates of the honest were excluded, in the order of windows.
    pub(super) blamed: Vec<(u64, Exclusion)>,
    /// Share of all weights from the first cheat on that cheats got.
    pub(super) cheat_reward_share: f64,
    /// Sequences that went through the model for a peer and a window, on average.
    pub(super) passes: f64,
    /// Why updates of cheats were excluded, in the order of windows.
    pub(super) reasons: Vec<(u64, Reason)>,
}

pub(super) struct Run<'a> {
    manifest: &'a Manifest,
    text: &'a Text,
    setting: Setting,
    layout: Layout,
    peers: Peers<'a>,
    theta: Arc<Parameters>,
    theta_before: Arc<Parameters>,
    /// Error feedback, by peer, and the aggregator's.
    feedback: Vec<Dense>,
    merged_feedback: Dense,
    standings: Vec<Standing>,
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
    /// When training diverges, which is an outcome of the run too: the loss is then no number.
    pub(super) fn run(mut self, mut passed: impl FnMut()) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let begins = self.setting.attack.map_or(0, Attack::begins);
        let (mut cheats, mut all, mut zero_since, mut passes, mut measured) = (0.0, 0.0, None, 0_u64, 0_u64);
        for window in 0..self.setting.windows {
            let (judgement, spent) = self.window(window)?;
            passes += spent;
            measured += judgement.standings.iter().filter(|standing| standing.is_scored).count() as u64;
            for exclusion in &judgement.excluded {
                match self.number(&exclusion.peer) {
                    Some(n) if n < self.setting.honest => outcome.blamed.push((window, exclusion.clone())),
                    _ => outcome.reasons.push((window, exclusion.reason)),
                }
            }
            let weight: f64 = judgement
                .standings
                .iter()
                .filter(|standing| self.number(&standing.peer).is_none_or(|n| self.is_paid_for_nothing(n)))
                .map(|standing| standing.weight)
                .sum();
            if window >= begins {
                cheats += weight;
                all += judgement.standings.iter().map(|standing| standing.weight).sum::<f64>();
                zero_since = if weight > 0.0 { None } else { zero_since.or(Some(window)) };
            }
            self.standings = judgement.standings;
            passed();
        }
        outcome.windows_to_zero_weight = zero_since.map(|since| since - begins);
        outcome.cheat_reward_share = if all > 0.0 { cheats / all } else { 0.0 };
        outcome.passes = passes as f64 / measured.max(1) as f64;
        outcome.loss = self.peers.measure(&self.theta)?;
        Ok(outcome)
    }

    fn number(&self, peer: &PeerId) -> Option<usize> {
        (0..self.setting.honest + self.setting.cheats).find(|&n| key(n).peer_id() == *peer)
    }

    /// Whether number `n` cheats. Of colluders the first has done the work that all send.
    fn is_paid_for_nothing(&self, n: usize) -> bool {
        let first = self.setting.honest + usize::from(self.setting.attack == Some(Attack::Colluders));
        n >= first
    }

    /// One window. Also tells how many sequences the validator spent on it.
    fn window(&mut self, window: u64) -> anyhow::Result<(Judgement, u64)> {
        let open = self.open(window)?;
        let (start, theta) = (self.theta.root(), Arc::clone(&self.theta));
        let deliveries = self.deliveries(&open, window)?;
        let (cutoff, updates) = self.cutoff(&open, deliveries)?;
        let (scores, spent) = self.scores(&cutoff, &updates, window)?;
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
        Ok((judgement, spent))
    }

    fn open(&mut self, window: u64) -> anyhow::Result<Signed<Open>> {
        let opened_at = Timestamp(1_000_000 * (window + 1));
        let open = Open {
            run: Digest([1; 32]),
            window,
            epoch: 0,
            previous_close: None,
            seed: Digest::of(window.to_le_bytes()),
            opened_at,
            deadline: Timestamp(opened_at.0 + 500_000),
            roster: Digest([2; 32]),
            state_root: self.theta.root(),
        };
        Ok(Envelope::sign(open, &key(VALIDATORS[0]))?.1)
    }

    fn codec(&self) -> CodecConfig {
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
            deliveries.push(desk.deliver(&key(n), update, n as u64 + 1)?);
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
            deliveries.push(spoilt(attack, window, desk.deliver(&key(n), update, order)?));
        }
        Ok(deliveries)
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
        let idle = [Attack::Noise, Attack::Alie, Attack::InnerProduct, Attack::Zeros, Attack::Copy];
        let idle_too = [Attack::NoisyCopy, Attack::IndexTakeover, Attack::LyingValidator];
        if idle.contains(&attack) || idle_too.contains(&attack) {
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

    /// The fast checks and the decoder, as the aggregator has them.
    fn cutoff(
        &self,
        open: &Signed<Open>,
        deliveries: Vec<Delivery>,
    ) -> anyhow::Result<(Signed<Cutoff>, Vec<Update>)> {
        let codec = self.codec();
        let key_of_update = update_key(open.record.window);
        let max_update_bytes = brigade_codec::max_update_bytes(&self.layout, &codec);
        let expected = Expected { open, update_key: &key_of_update, max_update_bytes };
        let desk = Desk { layout: &self.layout, codec, open };
        let (mut pinned, mut excluded) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            match admit(&expected, &desk, delivery) {
                Ok(both) => pinned.push(both),
                Err(exclusion) => excluded.push(exclusion),
            }
        }
        pinned.sort_by_key(|(pinned, _)| pinned.peer);
        let (pinned, updates): (Vec<Pinned>, Vec<Update>) = pinned.into_iter().unzip();
        let cutoff = Cutoff {
            run: open.record.run,
            window: open.record.window,
            epoch: 0,
            open: open.digest,
            cut_at: open.record.deadline,
            pinned,
            excluded,
        };
        Ok((Envelope::sign(cutoff, &key(VALIDATORS[0]))?.1, updates))
    }

    /// What three validators say. Two of them measure the same, so it is measured once.
    fn scores(
        &mut self,
        cutoff: &Signed<Cutoff>,
        updates: &[Update],
        window: u64,
    ) -> anyhow::Result<(Vec<Signed<Scores>>, u64)> {
        let scoring = &self.manifest.scoring;
        let (most, length) =
            (scoring.max_sequences as usize, self.manifest.training.sequence_length as usize);
        let unassigned = self.text.draw([self.setting.seed, window, NOBODY], most)?;
        let peers: Vec<PeerId> = cutoff.record.pinned.iter().map(|pinned| pinned.peer).collect();
        let own: Vec<Vec<Vec<u32>>> = peers
            .iter()
            .map(|peer| {
                self.peers.assigned(self.number(peer).unwrap_or_default(), window, most, cutoff.digest)
            })
            .collect::<anyhow::Result<_>>()?;
        let candidates: Vec<Candidate> = peers
            .iter()
            .zip(updates)
            .map(|(peer, update)| Candidate { peer: *peer, update: Ok(update.clone()) })
            .collect();
        let stages = stages(&unassigned, &own, scoring.sequences as usize, length)?;
        let step = self.manifest.outer.learning_rate / candidates.len().max(1) as f32;
        let theta = Arc::clone(&self.theta);
        let exam = Exam { scoring, theta: theta.tensors(), step, candidates: &candidates };
        let measured = exam.measure(self.peers.trainer(), &stages, 0, || true)?;
        let spent = measured.iter().map(|score| u64::from(score.passes)).sum();
        let honest =
            Scores { run: cutoff.record.run, window, cutoff: cutoff.digest, scores: measured, seconds: 0.0 };
        let mut liar = honest.clone();
        if self.setting.attack == Some(Attack::LyingValidator) {
            for score in &mut liar.scores {
                let is_cheat = self.number(&score.peer).is_none_or(|n| n >= self.setting.honest);
                let mean = if is_cheat { 10.0 } else { -10.0 };
                let lie = Some(Improvement { mean, standard_error: 1e-3, sequences: 64 });
                (score.unassigned, score.merit, score.trace) = (lie, lie, lie);
            }
        }
        let signed = [honest.clone(), honest, liar].into_iter().zip(VALIDATORS);
        let signed = signed.map(|(scores, n)| Ok(Envelope::sign(scores, &key(n))?.1));
        Ok((signed.collect::<anyhow::Result<_>>()?, spent))
    }
}

/// A delivery through the fast checks and the decoder.
fn admit(
    expected: &Expected<'_>,
    desk: &Desk<'_>,
    delivery: Delivery,
) -> Result<(Pinned, Update), Exclusion> {
    let Delivery { peer, update, receipt, received_at } = delivery;
    let receipt: Signed<Receipt> = expected.check(peer, &receipt, received_at)?;
    let promised = receipt.record.update;
    if promised.sha256 != Digest::of(&update) || promised.size != update.len() as u64 {
        return Err(Exclusion::new(peer, Reason::Unavailable, "another file than the receipt names"));
    }
    let update = Update::parse(update, desk.layout, &desk.codec, &desk.binding(peer))
        .map_err(|error| Exclusion::new(peer, Reason::Malformed, error))?;
    let pinned = Pinned {
        peer,
        update: promised,
        etag: String::new(),
        receipt: receipt.digest,
        received_at,
        mirrored_at: Timestamp(received_at.0 + 500),
        content: Digest(update.frame().content()),
    };
    Ok((pinned, update))
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
