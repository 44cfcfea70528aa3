//! What peers, honest or not, put into their buckets in a window.

use anyhow::Context as _;
use brigade_codec::{Binding, CodecConfig, Layout, Update, compress};
use brigade_protocol::{Digest, Envelope, FilePin, Open, PeerId, Receipt, Signed, SigningKey, Timestamp};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore as _;

use super::attack::Attack;

/// Values of an update, dense.
pub(super) type Dense = Vec<Vec<f32>>;

/// An update with its receipt, as the aggregator finds them.
pub(super) struct Delivery {
    pub(super) peer: PeerId,
    pub(super) update: Vec<u8>,
    pub(super) receipt: Vec<u8>,
    pub(super) received_at: Timestamp,
}

/// What a delivery is made with.
pub(super) struct Desk<'a> {
    pub(super) layout: &'a Layout,
    pub(super) codec: CodecConfig,
    pub(super) open: &'a Signed<Open>,
}

impl Desk<'_> {
    pub(super) fn binding(&self, peer: PeerId) -> Binding {
        let open = &self.open.record;
        Binding { run: open.run.0, window: open.window, peer: peer.0, start_state_root: open.state_root.0 }
    }

    /// Δ and e as a file; what it drops stays in e.
    pub(super) fn compress(&self, peer: PeerId, delta: &Dense, e: &mut Dense) -> anyhow::Result<Vec<u8>> {
        let slices: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
        Ok(compress(self.layout, &self.binding(peer), &self.codec, &slices, e)?)
    }

    /// Values as a file, without error feedback.
    pub(super) fn file(&self, peer: PeerId, values: &Dense) -> anyhow::Result<Vec<u8>> {
        self.compress(peer, values, &mut self.layout.zeros())
    }

    /// What the file of `peer` says.
    pub(super) fn values(&self, peer: PeerId, file: &[u8]) -> anyhow::Result<Dense> {
        Ok(Update::parse(file.to_vec(), self.layout, &self.codec, &self.binding(peer))?.decode()?)
    }

    /// An update with a receipt, written `order` seconds after the opening.
    pub(super) fn deliver(
        &self,
        key: &SigningKey,
        update: Vec<u8>,
        start_losses: Vec<f32>,
        order: u64,
    ) -> anyhow::Result<Delivery> {
        let (peer, open) = (key.peer_id(), &self.open.record);
        let frame = brigade_codec::Frame::digest_in(&update, self.layout).unwrap_or_default();
        let receipt = Receipt {
            run: open.run,
            window: open.window,
            open: self.open.digest,
            start_state_root: open.state_root,
            update: FilePin {
                key: update_key(open.window),
                size: update.len() as u64,
                sha256: Digest::of(&update),
                frame: Digest(frame),
            },
            inner_steps: 1,
            tokens: 1,
            train_loss: 1.0,
            start_losses,
            samples: Digest([0; 32]),
            compute_seconds: 1.0,
        };
        let receipt = Envelope::sign(receipt, key)?.0.to_bytes();
        let received_at = Timestamp(open.opened_at.0 + 1000 * order);
        Ok(Delivery { peer, update, receipt, received_at })
    }
}

/// Key of an update in its peer's bucket.
pub(super) fn update_key(window: u64) -> String {
    format!("windows/{window:010}/update.bin")
}

/// What a cheat may look at: it knows everything that the honest have sent.
pub(super) struct Sight<'a> {
    /// Honest updates of this window, dense.
    pub(super) honest: &'a [Dense],
    /// Its own honest update of this window, where it has made one.
    pub(super) own: Option<&'a Dense>,
    /// Its own update of the window before.
    pub(super) before: Option<&'a Dense>,
    /// Which of the cheats it is, and how many there are.
    pub(super) number: usize,
    pub(super) cheats: usize,
}

/// The values that a cheat sends; nothing where it sends its own honest update.
///
/// # Errors
/// When the cheat lacks what it needs.
pub(super) fn forged(
    attack: Attack,
    sight: &Sight<'_>,
    window: u64,
    chance: &mut ChaCha8Rng,
) -> anyhow::Result<Option<Dense>> {
    let own = || sight.own.context("this cheat trains");
    let first = || sight.honest.first().context("a run has honest peers");
    let values = match attack {
        Attack::Scale10 => times(own()?, 10.0),
        Attack::Scale100 => times(own()?, 100.0),
        Attack::Scale1000 => times(own()?, 1000.0),
        Attack::SignFlip => times(own()?, -1.0),
        Attack::SignFlip10 => times(own()?, -10.0),
        Attack::Sleeper if window >= attack.begins() => times(own()?, -1.0),
        Attack::Noise => with_noise(&times(first()?, 0.0), norm(first()?), chance),
        Attack::Alie => by_coordinate(sight.honest, |mean, deviation| mean - deviation),
        Attack::InnerProduct => {
            let mean = by_coordinate(sight.honest, |mean, _| -mean);
            times(&mean, norm(first()?) / norm(&mean).max(f32::MIN_POSITIVE))
        }
        Attack::Zeros | Attack::LyingValidator => times(first()?, 0.0),
        Attack::Copy => first()?.clone(),
        Attack::NoisyCopy => with_noise(first()?, norm(first()?), chance),
        Attack::Replay if window >= attack.begins() => sight.before.context("it has sent one")?.clone(),
        Attack::IndexTakeover => takeover(sight.honest, 3.0 * norm(first()?), chance),
        Attack::Colluders if sight.number > 0 => with_noise(own()?, 0.3 * norm(own()?), chance),
        Attack::SybilSplit => {
            let (number, cheats) = (sight.number, sight.cheats);
            let part = |tensor: &Vec<f32>| {
                let value = |(i, value): (usize, &f32)| if i % cheats == number { *value } else { 0.0 };
                tensor.iter().enumerate().map(value).collect()
            };
            own()?.iter().map(part).collect()
        }
        _ => return Ok(None),
    };
    Ok(Some(values))
}

fn times(values: &Dense, factor: f32) -> Dense {
    values.iter().map(|tensor| tensor.iter().map(|value| value * factor).collect()).collect()
}

pub(super) fn norm(values: &Dense) -> f32 {
    values.iter().flatten().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32
}

/// `values` and normal noise of that norm on the same number of places.
fn with_noise(values: &Dense, size: f32, chance: &mut ChaCha8Rng) -> Dense {
    let count = values.iter().map(Vec::len).sum::<usize>() as f32;
    // Only the largest of every 64 of 4096 are kept, which hold about a tenth of the noise's energy.
    let scale = size / count.sqrt() * 3.0;
    let noisy = |value: &f32| value + scale * normal(chance);
    let mut noisy = noisy;
    values.iter().map(|tensor| tensor.iter().map(&mut noisy).collect()).collect()
}

/// About normal: the sum of twelve uniform numbers.
fn normal(chance: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| chance.next_u32() as f32 / u32::MAX as f32).sum::<f32>() - 6.0
}

/// `of` mean and standard deviation of the honest, at every coordinate.
fn by_coordinate(honest: &[Dense], of: impl Fn(f32, f32) -> f32) -> Dense {
    let mut out = honest.first().cloned().unwrap_or_default();
    let count = honest.len() as f32;
    for (t, tensor) in out.iter_mut().enumerate() {
        for (i, value) in tensor.iter_mut().enumerate() {
            let mean = honest.iter().map(|dense| dense[t][i]).sum::<f32>() / count;
            let square = honest.iter().map(|dense| (dense[t][i] - mean).powi(2)).sum::<f32>() / count;
            *value = of(mean, square.sqrt());
        }
    }
    out
}

/// One in 64 of the places that no honest peer has, with values of this norm together.
fn takeover(honest: &[Dense], size: f32, chance: &mut ChaCha8Rng) -> Dense {
    let mut out = honest.first().map(|dense| times(dense, 0.0)).unwrap_or_default();
    let mut count = 0_u32;
    for (t, tensor) in out.iter_mut().enumerate() {
        for (i, value) in tensor.iter_mut().enumerate() {
            if chance.next_u32().is_multiple_of(64) && honest.iter().all(|dense| dense[t][i] == 0.0) {
                *value = if chance.next_u32().is_multiple_of(2) { 1.0 } else { -1.0 };
                count += 1;
            }
        }
    }
    times(&out, size / (count.max(1) as f32).sqrt())
}
