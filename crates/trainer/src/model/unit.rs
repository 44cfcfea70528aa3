//! Parameters in flat pieces, one for every part of the model that runs as a whole.

use std::{cell::RefCell, ops::Range, sync::Arc};

use brigade_protocol::{ModelConfig, TensorSpec};
use tch::{Device, Kind, Tensor};

use crate::{
    Error, Result,
    device::Precision,
    ranks::{Gathering, Group, from_bytes, to_bytes},
};

/// The parameters of one part of the model (the embedding, a block, the last norm, the output projection) in a
/// single 1-D buffer, in the order of [`ModelConfig::tensors`]; of several ranks each holds its n-th of the buffer, which
/// is filled up with zeros to what n divides.
///
/// A flat buffer is one kernel to cast, to update, and to gather or scatter; and neighbours in it are one
/// matrix: the rows of `q_proj`, `k_proj` and `v_proj` lie one after the other.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Indices into [`ModelConfig::tensors`].
    pub(crate) tensors: Range<usize>,
    /// Number of elements of each tensor.
    pub(crate) lengths: Vec<i64>,
    /// This rank's fp32 master weights: all of them if there is no other.
    pub(crate) master: Tensor,
    /// The same weights rounded to the activations' dtype, in that of products; shares the master's storage if both
    /// are fp32.
    compute: Tensor,
    /// Dtype of activations.
    rounding: Kind,
}

impl Unit {
    fn zeros(
        specs: &[TensorSpec],
        tensors: Range<usize>,
        precision: Precision,
        device: Device,
        world: usize,
    ) -> Result<Self> {
        let lengths: Vec<i64> = specs[tensors.clone()].iter().map(|spec| spec.numel() as i64).collect();
        let numel = (lengths.iter().sum::<i64>() as u64).div_ceil(world as u64) as i64;
        let master = Tensor::f_zeros([numel], (Kind::Float, device))?;
        let compute = match precision {
            Precision::FLOAT32 => master.shallow_clone(),
            Precision { products, .. } => Tensor::f_zeros([numel], (products, device))?,
        };
        Ok(Self { tensors, lengths, master, compute, rounding: precision.activations })
    }

    /// Elements of all tensors.
    pub(crate) fn numel(&self) -> i64 {
        self.lengths.iter().sum()
    }

    /// Every tensor of the unit as a 1-D view of `flat`, which has all its elements.
    pub(crate) fn cut(&self, flat: &Tensor) -> Result<Vec<Tensor>> {
        Ok(flat.f_narrow(0, 0, self.numel())?.f_split_with_sizes(&self.lengths[..], 0)?)
    }

    /// Brings the compute copy up to date with the masters; free in fp32, where they are one.
    fn refresh(&mut self) -> Result<()> {
        if self.compute.data_ptr() == self.master.data_ptr() {
            return Ok(());
        }
        if self.compute.f_kind()? == self.rounding {
            self.compute.f_copy_(&self.master)?;
        } else {
            self.compute.f_copy_(&self.master.f_to_kind(self.rounding)?)?;
        }
        Ok(())
    }
}

/// All units of a model, in the order of [`ModelConfig::tensors`]: the embedding, the blocks, the last norm and,
/// if it is not tied to the embedding, the output projection.
#[derive(Debug)]
pub(crate) struct Units {
    pub(crate) specs: Vec<TensorSpec>,
    pub(crate) all: Vec<Unit>,
    /// Who holds them together.
    pub(crate) group: Arc<Group>,
    blocks: usize,
    /// The unit that is being gathered ahead of its use.
    ahead: RefCell<Option<(usize, Gathering)>>,
}

impl Units {
    /// All-zero parameters, of which this rank of `group` holds its share.
    pub(crate) fn zeros(
        config: &ModelConfig,
        precision: Precision,
        device: Device,
        group: Arc<Group>,
    ) -> Result<Self> {
        let specs = config.tensors();
        let blocks = config.num_hidden_layers;
        let per_block = super::block::num_tensors(config);
        let mut bounds = vec![0, 1];
        bounds.extend((1..=blocks).map(|layer| 1 + layer * per_block));
        bounds.extend(1 + blocks * per_block + 1..=specs.len());
        let all = bounds
            .windows(2)
            .map(|ends| Unit::zeros(&specs, ends[0]..ends[1], precision, device, group.world()))
            .collect::<Result<_>>()?;
        Ok(Self { specs, all, group, blocks, ahead: RefCell::new(None) })
    }

    pub(crate) const EMBEDDING: usize = 0;

    /// Index of a block's unit.
    pub(crate) fn block(&self, layer: usize) -> usize {
        1 + layer
    }

    /// Index of the last norm's unit.
    pub(crate) fn norm(&self) -> usize {
        1 + self.blocks
    }

    /// Index of the unit that holds the output projection: the embedding's own if they are tied.
    pub(crate) fn output(&self) -> usize {
        if self.all.len() > self.norm() + 1 { self.norm() + 1 } else { Self::EMBEDDING }
    }

    /// Whether other ranks hold a part.
    pub(crate) fn is_sharded(&self) -> bool {
        self.group.world() > 1
    }

    /// The weights of a unit to compute with, 1-D in the dtype of products, as a leaf of the autograd graph if `grad`.
    /// Of several ranks' parts they are put together anew at every call.
    pub(crate) fn weights(&self, unit: usize, grad: bool) -> Result<Tensor> {
        let Unit { compute, .. } = &self.all[unit];
        let mut full = match self.is_sharded() {
            false => compute.f_detach()?,
            true => self.gather(unit)?.f_narrow(0, 0, self.all[unit].numel())?,
        };
        Ok(full.f_requires_grad_(grad)?)
    }

    /// Begins to gather a unit that will be needed next, while something else is computed. All ranks must say the same.
    pub(crate) fn prefetch(&self, unit: usize) -> Result<()> {
        if self.is_sharded() {
            let gathering = self.group.all_gather(&self.all[unit].compute)?;
            *self.ahead.borrow_mut() = Some((unit, gathering));
        }
        Ok(())
    }

    fn gather(&self, unit: usize) -> Result<Tensor> {
        match self.ahead.borrow_mut().take() {
            Some((number, gathering)) if number == unit => gathering.wait(),
            // What was gathered ahead of another use is given up.
            _ => self.group.all_gather(&self.all[unit].compute)?.wait(),
        }
    }

    /// Overwrites all parameters; `values[i]` belongs to the i-th of [`ModelConfig::tensors`], row-major. Only rank 0 has
    /// them.
    ///
    /// # Errors
    /// [`Error::TensorCount`] or [`Error::TensorLength`], before anything is overwritten.
    pub(crate) fn load(&mut self, values: Option<&[impl AsRef<[f32]>]>) -> Result<()> {
        if let Some(values) = values {
            self.expect_lengths(values)?;
        }
        for unit in &mut self.all {
            let values = values.map(|values| &values[unit.tensors.clone()]);
            match values {
                Some(values) if self.group.world() == 1 => {
                    for (mut view, value) in unit.cut(&unit.master)?.into_iter().zip(values) {
                        view.f_copy_(&Tensor::f_from_slice(value.as_ref())?)?;
                    }
                }
                values => {
                    let flat = values.map(|values| {
                        let flat = values.iter().map(|value| Tensor::f_from_slice(value.as_ref()));
                        Ok::<_, Error>(Tensor::f_cat(&flat.collect::<Result<Vec<_>, _>>()?, 0)?)
                    });
                    let shard = scatter(&self.group, flat.transpose()?.as_ref(), unit.master.numel())?;
                    unit.master.f_copy_(&shard)?;
                    // One unit after the other: rank 0 would else queue the whole model.
                    self.group.sum(&[])?;
                }
            }
        }
        self.refresh()
    }

    /// # Errors
    /// [`Error::TensorCount`] or [`Error::TensorLength`] if `values` are not as many, and as long, as the parameters.
    pub(crate) fn expect_lengths(&self, values: &[impl AsRef<[f32]>]) -> Result<()> {
        if values.len() != self.specs.len() {
            return Err(Error::TensorCount { expected: self.specs.len(), found: values.len() });
        }
        for (spec, value) in self.specs.iter().zip(values) {
            let (expected, found) = (spec.numel(), value.as_ref().len());
            if expected != found {
                return Err(Error::TensorLength { name: spec.name.clone(), expected, found });
            }
        }
        Ok(())
    }

    /// Views of a unit's fp32 masters, one for each tensor, all elements of them; put together from all ranks if there are
    /// several.
    pub(crate) fn masters_of(&self, unit: usize) -> Result<Vec<Tensor>> {
        let unit = &self.all[unit];
        match self.is_sharded() {
            false => unit.cut(&unit.master),
            true => unit.cut(&self.group.all_gather(&unit.master)?.wait()?),
        }
    }

    /// All parameters, in the order of [`ModelConfig::tensors`]; on rank 0 alone, the others get none.
    pub(crate) fn read(&self) -> Result<Vec<Vec<f32>>> {
        let mut values = Vec::new();
        for unit in 0..self.all.len() {
            let masters = self.masters_of(unit)?;
            if self.group.rank() == 0 {
                values.extend(masters.iter().map(to_vec).collect::<Result<Vec<_>>>()?);
            }
        }
        self.group.check()?;
        Ok(values)
    }

    /// Brings the compute copies up to date with the masters.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        self.all.iter_mut().try_for_each(Unit::refresh)
    }
}

/// Gives every rank its part of `full`, which rank 0 alone has and which is filled up with zeros: `part` elements for each.
fn scatter(group: &Group, full: Option<&Tensor>, part: usize) -> Result<Tensor> {
    let shares = full.map(|full| {
        let missing = (part * group.world()) as i64 - full.size()[0];
        let filled = full.f_constant_pad_nd([0, missing])?;
        filled.f_chunk(group.world() as i64, 0)?.iter().map(to_bytes).collect::<Result<Vec<_>>>()
    });
    from_bytes(&group.scatter(shares.transpose()?)?, Kind::Float)
}

/// An fp32 tensor's elements, row-major.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}
