//! AdamW (arXiv 1711.05101), alone or beside Muon, with state that can be saved bit for bit.

mod config;
mod moments;
mod muon;
mod state;

use std::ops::Range;

use brigade_protocol::TensorSpec;
use brigade_torch_ext::{AdamW as FusedAdamW, AdamWOptions, foreach};
use tch::Tensor;

pub use self::config::{AdamWConfig, MuonConfig, OptimizerConfig};
use self::moments::{Moment, Storage};
use self::muon::Muon;
use crate::{Error, Result, model::Units};

/// The moments of every parameter and the number of steps taken.
#[derive(Debug)]
pub(crate) struct Optimizer {
    max_grad_norm: f64,
    /// AdamW's: the tensors that are decayed, and those that are not.
    groups: [Group; 2],
    /// The matrices of blocks, unless they are AdamW's too.
    muon: Option<Muon>,
    /// Where all moments lie.
    storage: Storage,
}

/// Parameters with the same weight decay.
#[derive(Debug)]
struct Group {
    spans: Vec<Span>,
    options: AdamWOptions,
    /// First and second moment of each span.
    firsts: Vec<Moment>,
    seconds: Vec<Moment>,
    /// How many steps they have seen.
    steps: i64,
}

impl Group {
    /// One step; moments that lie elsewhere are here only while their span has its turn.
    fn step(&mut self, units: &Units, gradients: &[Tensor], lr: f64, at_once: usize) -> Result<()> {
        let moments = self.firsts.chunks(at_once).zip(self.seconds.chunks(at_once));
        for (spans, (firsts, seconds)) in self.spans.chunks(at_once).zip(moments) {
            let params = cut_all(spans, |unit| &units.all[unit].master)?;
            let bring = |moments: &[Moment]| -> Result<Vec<Tensor>> {
                moments.iter().zip(&params).map(|(moment, param)| moment.bring(param.device())).collect()
            };
            let mut fused =
                FusedAdamW::from_moments(bring(firsts)?, bring(seconds)?, self.steps, self.options)?;
            fused.step(&params, &cut_all(spans, |unit| &gradients[unit])?, lr, None)?;
            let (first, second) =
                (firsts.iter().zip(fused.exp_avgs()), seconds.iter().zip(fused.exp_avg_sqs()));
            first.chain(second).try_for_each(|(moment, moved)| moment.keep(moved))?;
        }
        self.steps += 1;
        Ok(())
    }
}

/// Neighbouring tensors of one unit that are decayed alike: one stretch of its flat buffers.
#[derive(Debug)]
struct Span {
    unit: usize,
    /// Indices into the model's tensors.
    tensors: Range<usize>,
    start: i64,
    length: i64,
    /// What this rank holds of it: elements of its share of the unit, perhaps none.
    own: Range<i64>,
}

impl Span {
    /// This rank's part, out of its share of the unit.
    fn cut(&self, flat: &Tensor) -> Result<Tensor> {
        Ok(flat.f_narrow(0, self.own.start, self.own.end - self.own.start)?)
    }
}

impl Optimizer {
    /// Elements of all moments that this rank holds.
    #[cfg(test)]
    pub(crate) fn numel(&self) -> usize {
        let moments =
            |group: &Group| group.firsts.iter().chain(&group.seconds).map(Moment::numel).sum::<i64>();
        let momenta = self.muon.iter().flat_map(|muon| &muon.momenta).map(Moment::numel).sum::<i64>();
        (self.groups.iter().map(moments).sum::<i64>() + momenta) as usize
    }
}

/// What `rank` holds of `length` elements from `start` on, if each rank holds `share` of all: a range within its share.
fn part(start: i64, length: i64, share: i64, rank: usize) -> Range<i64> {
    let first = share * rank as i64;
    let within = |at: i64| (at - first).clamp(0, share);
    within(start)..within(start + length)
}

impl Optimizer {
    /// No step taken, all moments zero; in the host's memory if `offload`.
    pub(crate) fn new(config: OptimizerConfig, units: &Units, offload: bool) -> Result<Self> {
        config.validate()?;
        let is_muon = matches!(config, OptimizerConfig::Muon(_));
        let adamw = config.adamw();
        let spans_of = |decay: bool| {
            spans(units, |unit, spec: &TensorSpec| match spec.shape.len() > 1 {
                true => decay && !(is_muon && is_block_matrix(units, unit, spec)),
                false => !decay,
            })
        };
        let (decayed, spared) = (spans_of(true), spans_of(false));
        let muon_spans = match config {
            OptimizerConfig::AdamW(_) => Vec::new(),
            OptimizerConfig::Muon(_) => spans(units, |unit, spec| is_block_matrix(units, unit, spec)),
        };
        let numel = |spans: &[Span]| spans.iter().map(|span| span.own.end - span.own.start).sum::<i64>();
        let total = 2 * (numel(&decayed) + numel(&spared)) + numel(&muon_spans);
        let device = units.all[Units::EMBEDDING].master.device();
        let mut storage = if offload { Storage::host(device, total)? } else { Storage::Beside };
        let mut zeros = |spans: &[Span]| -> Result<Vec<Moment>> {
            let params = cut_all(spans, |unit| &units.all[unit].master)?;
            params.iter().map(|param| storage.zeros_like(param)).collect()
        };
        let mut group = |spans: Vec<Span>, weight_decay: f64| {
            let AdamWConfig { betas: (beta1, beta2), eps, .. } = *adamw;
            let options = AdamWOptions { beta1, beta2, eps, weight_decay };
            let (firsts, seconds) = (zeros(&spans)?, zeros(&spans)?);
            Ok::<_, Error>(Group { spans, options, firsts, seconds, steps: 0 })
        };
        let groups = [group(decayed, adamw.weight_decay)?, group(spared, 0.0)?];
        let muon = match config {
            OptimizerConfig::AdamW(_) => None,
            OptimizerConfig::Muon(config) => {
                Some(Muon { config, momenta: zeros(&muon_spans)?, spans: muon_spans })
            }
        };
        let max_grad_norm = adamw.max_grad_norm.unwrap_or(f64::INFINITY);
        Ok(Self { max_grad_norm, groups, muon, storage })
    }

    /// Clips `gradients`, whose norm is `norm`, and takes one step with learning rate `lr`. Both are finite.
    pub(crate) fn step(&mut self, units: &mut Units, gradients: &[Tensor], norm: f64, lr: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        // The 1e-6 is that of torch.nn.utils.clip_grad_norm_, whose result this must equal.
        let scale = self.max_grad_norm / (norm + 1e-6);
        if scale < 1.0 {
            foreach::mul_(gradients, scale)?;
        }
        let at_once = self.storage.at_once();
        for group in &mut self.groups {
            group.step(units, gradients, lr, at_once)?;
        }
        if let Some(muon) = &self.muon {
            muon.step(units, gradients, lr, at_once)?;
        }
        units.refresh()
    }
}

/// Whether this is one of the matrices between a block's input and its output, which are Muon's if it is there.
fn is_block_matrix(units: &Units, unit: usize, spec: &TensorSpec) -> bool {
    (units.block(0)..units.norm()).contains(&unit) && spec.shape.len() == 2
}

/// All spans of the tensors that `is_ours` says yes to, by their unit and shape.
fn spans(units: &Units, is_ours: impl Fn(usize, &TensorSpec) -> bool) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (index, unit) in units.all.iter().enumerate() {
        let mut start = 0;
        for (tensor, &length) in unit.tensors.clone().zip(&unit.lengths) {
            if is_ours(index, &units.specs[tensor]) {
                match spans.last_mut() {
                    Some(last) if last.unit == index && last.start + last.length == start => {
                        last.length += length;
                        last.tensors.end = tensor + 1;
                    }
                    _ => spans.push(Span {
                        unit: index,
                        tensors: tensor..tensor + 1,
                        start,
                        length,
                        own: 0..0,
                    }),
                }
            }
            start += length;
        }
    }
    for span in &mut spans {
        let share = units.all[span.unit].master.size()[0];
        span.own = part(span.start, span.length, share, units.group.rank());
    }
    spans
}

fn cut_all<'a>(spans: &[Span], flat: impl Fn(usize) -> &'a Tensor) -> Result<Vec<Tensor>> {
    spans.iter().map(|span| span.cut(flat(span.unit))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use brigade_protocol::ModelConfig;
    use tch::Device;

    use super::*;
    use crate::{device::Precision, model::tests::tiny, ranks::Group as Ranks};

    #[test]
    fn spans_cover_every_tensor_once() {
        for tie_word_embeddings in [false, true] {
            let config = ModelConfig { tie_word_embeddings, ..tiny() };
            let units = Units::zeros(&config, Precision::FLOAT32, Device::Cpu, Ranks::alone()).unwrap();
            let decayed = spans(&units, |_, spec| spec.shape.len() > 1);
            let spared = spans(&units, |_, spec| spec.shape.len() == 1);
            // Two norms in each of the two blocks and the last one cut what is decayed.
            assert_eq!(spared.len(), 5);
            assert_eq!(decayed.len(), 1 + 4 + usize::from(!tie_word_embeddings));
            let mut all: Vec<&Span> = decayed.iter().chain(&spared).collect();
            all.sort_by_key(|span| span.tensors.start);
            let tensors: Vec<usize> = all.iter().flat_map(|span| span.tensors.clone()).collect();
            assert_eq!(tensors, (0..units.specs.len()).collect::<Vec<_>>());
            let elements: i64 = all.iter().map(|span| span.length).sum();
            assert_eq!(elements as usize, config.num_parameters());
        }
    }
}
