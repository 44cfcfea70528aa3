//! The optimiser's state as a safetensors file.

use brigade_protocol::TensorSpec;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tch::{Kind, Tensor};

use super::{Group, Moment, Optimizer, Span, part};
use crate::{
    Error, Result,
    model::Units,
    ranks::{from_bytes, to_bytes},
};

const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";
const MOMENTUM: &str = "momentum_buffer.";
const STEP: &str = "step";

impl Optimizer {
    /// The moments and the number of steps as a safetensors file, bit for bit; on rank 0, the others get nothing.
    ///
    /// For a parameter `p` of AdamW there are `exp_avg.p` and `exp_avg_sq.p`, for one of Muon there is `momentum_buffer.p`,
    /// fp32 in its shape; `step` is int64 `[1]`.
    pub(crate) fn save(&self, units: &Units) -> Result<Vec<u8>> {
        self.storage.settle();
        let step = self.groups[0].steps.to_le_bytes();
        let mut tensors = Vec::new();
        for (prefix, spans, moments) in self.moments() {
            for (span, own) in spans.iter().zip(moments) {
                // As they lie in memory: little-endian, the parts of the ranks one after the other.
                let parts = units.group.collect(to_bytes(&own.read()?)?)?.unwrap_or_default().concat();
                tensors.push((prefix, &units.specs[span.tensors.clone()], parts));
            }
        }
        if units.group.rank() > 0 {
            return Ok(Vec::new());
        }
        let mut views = vec![(STEP.to_owned(), TensorView::new(Dtype::I64, vec![1], &step).map_err(state)?)];
        for (prefix, specs, bytes) in &tensors {
            let mut rest = bytes.as_slice();
            for spec in *specs {
                let (data, after) = rest.split_at(4 * spec.numel());
                rest = after;
                let view = TensorView::new(Dtype::F32, spec.shape.clone(), data).map_err(state)?;
                views.push((format!("{prefix}{}", spec.name), view));
            }
        }
        safetensors::serialize(views, None).map_err(state)
    }

    /// All moments by the name that they have in the file, with the spans that they belong to.
    fn moments(&self) -> Vec<(&'static str, &[Span], &[Moment])> {
        let mut all: Vec<(_, &[Span], &[Moment])> = Vec::new();
        for Group { spans, firsts, seconds, .. } in &self.groups {
            all.push((FIRST, spans, firsts));
            all.push((SECOND, spans, seconds));
        }
        if let Some(muon) = &self.muon {
            all.push((MOMENTUM, &muon.spans, &muon.momenta));
        }
        all
    }

    /// Refuses the state of the other optimiser, and of another model.
    fn expect_own(&self, file: &SafeTensors<'_>) -> Result<()> {
        let is_muon = file.iter().any(|(name, _)| name.starts_with(MOMENTUM));
        match (is_muon, &self.muon) {
            (true, None) => return Err(state("is of Muon, and this trainer's optimiser is AdamW")),
            (false, Some(_)) => return Err(state("is of AdamW alone, and this trainer's optimiser is Muon")),
            _ => {}
        }
        let tensors = |spans: &[Span]| spans.iter().map(|span| span.tensors.len()).sum::<usize>();
        let expected = 1 + self.moments().iter().map(|(_, spans, _)| tensors(spans)).sum::<usize>();
        match file.len() == expected {
            true => Ok(()),
            false => Err(state(format!("{} tensors, expected {expected}", file.len()))),
        }
    }

    /// Checks that `bytes` are the state of this optimiser.
    ///
    /// # Errors
    /// [`Error::OptimizerState`].
    pub(crate) fn check(&self, units: &Units, bytes: &[u8]) -> Result<()> {
        let file = SafeTensors::deserialize(bytes).map_err(state)?;
        self.expect_own(&file)?;
        read_steps(&file)?;
        for (prefix, spans, _) in self.moments() {
            for span in spans {
                read_moment(&file, prefix, &units.specs[span.tensors.clone()]).map(drop)?;
            }
        }
        Ok(())
    }

    /// Takes over what [`save`](Self::save) wrote, which only rank 0 has.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if it is of the other optimiser, or a tensor is missing, too many, misshapen or not
    /// finite; then nothing has changed.
    pub(crate) fn load(&mut self, units: &Units, bytes: Option<&[u8]>) -> Result<()> {
        let file = bytes.map(SafeTensors::deserialize).transpose().map_err(state)?;
        let steps =
            file.as_ref().map(|file| self.expect_own(file).and_then(|()| read_steps(file))).transpose()?;
        let steps = units.group.broadcast(steps.map(|steps| steps.to_le_bytes().to_vec()))?;
        let steps = i64::from_le_bytes(steps.try_into().map_err(|_| state("`step` is not one number"))?);
        let read = |(prefix, spans, _): (_, &[Span], _)| -> Result<Vec<Tensor>> {
            let own = |span: &Span| {
                let specs = &units.specs[span.tensors.clone()];
                let full = file.as_ref().map(|file| read_moment(file, prefix, specs)).transpose()?;
                share(units, span, full)
            };
            spans.iter().map(own).collect()
        };
        self.storage.settle();
        let loaded = self.moments().into_iter().map(read).collect::<Result<Vec<_>>>()?;
        self.groups.iter_mut().for_each(|group| group.steps = steps);
        let groups = self.groups.iter_mut().flat_map(|group| [&mut group.firsts, &mut group.seconds]);
        let all = groups.chain(self.muon.iter_mut().map(|muon| &mut muon.momenta));
        for (moments, values) in all.zip(loaded) {
            moments.iter_mut().zip(&values).try_for_each(|(moment, value)| moment.write(value))?;
        }
        Ok(())
    }
}

/// This rank's part of a moment of `span`, which rank 0 has in `full`.
fn share(units: &Units, span: &Span, full: Option<Tensor>) -> Result<Tensor> {
    let (group, share) = (&units.group, units.all[span.unit].master.size()[0]);
    let parts = full.map(|full| {
        let mut first = 0;
        let cut = |rank| {
            let own = part(span.start, span.length, share, rank);
            let (start, length) = (first, own.end - own.start);
            first += length;
            to_bytes(&full.f_narrow(0, start, length)?)
        };
        (0..group.world()).map(cut).collect::<Result<Vec<_>>>()
    });
    let own = from_bytes(&group.scatter(parts.transpose()?)?, Kind::Float)?;
    // One after the other: rank 0 would else queue all moments.
    group.sum(&[])?;
    Ok(own)
}

/// The number of steps, which libtorch counts in fp32 and therefore exactly to 2^24.
fn read_steps(file: &SafeTensors<'_>) -> Result<i64> {
    let view = file.tensor(STEP).map_err(state)?;
    let steps = <[u8; 8]>::try_from(view.data()).map(i64::from_le_bytes);
    match (view.dtype(), view.shape(), steps) {
        (Dtype::I64, [1], Ok(steps)) if (0..1 << 24).contains(&steps) => Ok(steps),
        _ => Err(state("`step` is not one int64 of at least 0 and below 2^24")),
    }
}
/// One moment of neighbouring tensors, flat, on the CPU.
fn read_moment(file: &SafeTensors<'_>, prefix: &str, specs: &[TensorSpec]) -> Result<Tensor> {
    let mut flat = Vec::with_capacity(specs.iter().map(TensorSpec::numel).sum());
    for spec in specs {
        let name = format!("{prefix}{}", spec.name);
        let view = file.tensor(&name).map_err(state)?;
        if view.dtype() != Dtype::F32 || view.shape() != spec.shape {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(state(format!("`{name}` is {found}, expected F32 {:?}", spec.shape)));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        flat.extend(values);
    }
    match flat.iter().all(|value| value.is_finite()) {
        true => Ok(Tensor::f_from_slice(&flat)?),
        false => Err(state(format!("`{prefix}` holds a value that is not finite"))),
    }
}

fn state(reason: impl ToString) -> Error {
    Error::OptimizerState { reason: reason.to_string() }
}
