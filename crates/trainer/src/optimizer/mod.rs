//! AdamW (arXiv 1711.05101), alone or beside Muon, with state that can be saved bit for bit.

mod config;
mod muon;
mod state;

use std::ops::Range;

use brigade_protocol::TensorSpec;
use brigade_torch_ext::{AdamW as FusedAdamW, AdamWOptions, foreach};
use tch::Tensor;

pub use self::config::{AdamWConfig, MuonConfig, OptimizerConfig};
use self::muon::Muon;
use crate::{
    Error, Result,
    model::{Gradients, Units},
    ranks::Group as Ranks,
};

/// The moments of every parameter and the number of steps taken.
#[derive(Debug)]
pub(crate) struct Optimizer {
    max_grad_norm: f64,
    /// AdamW's: the tensors that are decayed, and those that are not.
    groups: [Group; 2],
    /// The matrices of blocks, unless they are AdamW's too.
    muon: Option<Muon>,
}

/// Parameters with the same weight decay.
#[derive(Debug)]
struct Group {
    spans: Vec<Span>,
    /// One pair of flat moments per span.
    fused: FusedAdamW,
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
        let moments = |group: &Group| {
            let both = group.fused.exp_avgs().iter().chain(group.fused.exp_avg_sqs());
            both.map(Tensor::numel).sum::<usize>()
        };
        let momenta = self.muon.iter().flat_map(|muon| &muon.momenta).map(Tensor::numel).sum::<usize>();
        self.groups.iter().map(moments).sum::<usize>() + momenta
    }
}

/// What `rank` holds of `length` elements from `start` on, if each rank holds `share` of all: a range within its share.
fn part(start: i64, length: i64, share: i64, rank: usize) -> Range<i64> {
    let first = share * rank as i64;
    let within = |at: i64| (at - first).clamp(0, share);
    within(start)..within(start + length)
}

impl Optimizer {
    /// No step taken, all moments zero.
    pub(crate) fn new(config: OptimizerConfig, units: &Units) -> Result<Self> {
        config.validate()?;
        let muon = match config {
            OptimizerConfig::AdamW(_) => None,
            OptimizerConfig::Muon(muon) => Some(Muon::new(muon, units)?),
        };
        let config = config.adamw();
        let group = |decay: bool| {
            let is_ours = |unit, spec: &TensorSpec| match spec.shape.len() > 1 {
                true => decay && (muon.is_none() || !is_block_matrix(units, unit, spec)),
                false => !decay,
            };
            let spans = spans(units, is_ours);
            let params = cut_all(&spans, |unit| &units.all[unit].master)?;
            let options = AdamWOptions {
                beta1: config.betas.0,
                beta2: config.betas.1,
                eps: config.eps,
                weight_decay: if decay { config.weight_decay } else { 0.0 },
            };
            Ok::<_, Error>(Group { spans, fused: FusedAdamW::new(&params, options)? })
        };
        let max_grad_norm = config.max_grad_norm.unwrap_or(f64::INFINITY);
        let groups = [group(true)?, group(false)?];
        Ok(Self { max_grad_norm, groups, muon })
    }

    /// Clips `gradients` and takes one step with learning rate `lr`; returns their norm before the clipping.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the norm is not finite; then nothing has changed.
    pub(crate) fn step(&mut self, units: &mut Units, gradients: Gradients, lr: f64) -> Result<f64> {
        self.step_with(units, gradients.into_inner()?, lr)
    }

    /// The same, once the gradients have all come.
    pub(crate) fn step_with(&mut self, units: &mut Units, gradients: Vec<Tensor>, lr: f64) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let norm = global_norm(&units.group, &gradients)?;
        if !norm.is_finite() {
            return Err(Error::NotFinite { what: "gradient norm", value: norm });
        }
        // The 1e-6 is that of torch.nn.utils.clip_grad_norm_, whose result this must equal.
        let scale = self.max_grad_norm / (norm + 1e-6);
        if scale < 1.0 {
            foreach::mul_(&gradients, scale)?;
        }
        for Group { spans, fused } in &mut self.groups {
            let params = cut_all(spans, |unit| &units.all[unit].master)?;
            fused.step(&params, &cut_all(spans, |unit| &gradients[unit])?, lr, None)?;
        }
        if let Some(muon) = &self.muon {
            muon.step(units, &gradients, lr)?;
        }
        units.refresh()?;
        Ok(norm)
    }
}

/// L2 norm of all gradients, over all ranks.
fn global_norm(ranks: &Ranks, gradients: &[Tensor]) -> Result<f64> {
    let own = foreach::global_norm(gradients)?.f_double_value(&[])?;
    if ranks.world() == 1 {
        return Ok(own);
    }
    Ok(ranks.sum(&[own * own])?[0].sqrt())
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
    use crate::{device::Precision, model::tests::tiny};

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
