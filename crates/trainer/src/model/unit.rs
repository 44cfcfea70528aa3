//! Parameters in flat pieces, one for every part of the model that runs as a whole.

use std::ops::Range;

use brigade_protocol::{ModelConfig, TensorSpec};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result, device::Precision};

/// The parameters of one part of the model (the embedding, a block, the last norm, the output projection) in a
/// single 1-D buffer, in the order of [`ModelConfig::tensors`].
///
/// A flat buffer is one kernel to cast, to update, and later to gather or scatter; and neighbours in it are one
/// matrix: the rows of `q_proj`, `k_proj` and `v_proj` lie one after the other.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Indices into [`ModelConfig::tensors`].
    pub(crate) tensors: Range<usize>,
    /// Number of elements of each tensor.
    pub(crate) lengths: Vec<i64>,
    /// fp32 master weights `[numel]`.
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
    ) -> Result<Self> {
        let lengths: Vec<i64> = specs[tensors.clone()].iter().map(|spec| spec.numel() as i64).collect();
        let numel: i64 = lengths.iter().sum();
        let master = Tensor::f_zeros([numel], (Kind::Float, device))?;
        let compute = match precision {
            Precision::FLOAT32 => master.shallow_clone(),
            Precision { products, .. } => Tensor::f_zeros([numel], (products, device))?,
        };
        Ok(Self { tensors, lengths, master, compute, rounding: precision.activations })
    }

    /// Every tensor of the unit as a 1-D view of the fp32 master weights.
    pub(crate) fn masters(&self) -> Result<Vec<Tensor>> {
        Ok(self.master.f_split_with_sizes(&self.lengths[..], 0)?)
    }

    /// The weights to compute with, as a leaf of the autograd graph if `grad`.
    pub(crate) fn weights(&self, grad: bool) -> Result<Tensor> {
        Ok(self.compute.f_detach()?.f_requires_grad_(grad)?)
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
    blocks: usize,
}

impl Units {
    /// All-zero parameters.
    pub(crate) fn zeros(config: &ModelConfig, precision: Precision, device: Device) -> Result<Self> {
        let specs = config.tensors();
        let blocks = config.num_hidden_layers;
        let per_block = super::block::num_tensors(config);
        let mut bounds = vec![0, 1];
        bounds.extend((1..=blocks).map(|layer| 1 + layer * per_block));
        bounds.extend(1 + blocks * per_block + 1..=specs.len());
        let all = bounds
            .windows(2)
            .map(|ends| Unit::zeros(&specs, ends[0]..ends[1], precision, device))
            .collect::<Result<_>>()?;
        Ok(Self { specs, all, blocks })
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

    /// Overwrites all parameters; `values[i]` belongs to the i-th of [`ModelConfig::tensors`], row-major.
    ///
    /// # Errors
    /// [`Error::TensorCount`] or [`Error::TensorLength`], before anything is overwritten.
    pub(crate) fn load(&mut self, values: &[impl AsRef<[f32]>]) -> Result<()> {
        self.expect_lengths(values)?;
        for unit in &mut self.all {
            for (mut view, value) in unit.masters()?.into_iter().zip(&values[unit.tensors.clone()]) {
                view.f_copy_(&Tensor::f_from_slice(value.as_ref())?)?;
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

    /// Views of all parameters, where they are, in the order of [`ModelConfig::tensors`].
    pub(crate) fn masters(&self) -> Result<Vec<Tensor>> {
        let mut masters = Vec::with_capacity(self.specs.len());
        for unit in &self.all {
            masters.extend(unit.masters()?);
        }
        Ok(masters)
    }

    /// All parameters, in the order of [`ModelConfig::tensors`].
    pub(crate) fn read(&self) -> Result<Vec<Vec<f32>>> {
        self.masters()?.iter().map(to_vec).collect()
    }

    /// Brings the compute copies up to date with the masters.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        self.all.iter_mut().try_for_each(Unit::refresh)
    }
}

/// An fp32 tensor's elements, row-major.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// Gradients of all units, fp32 and flat like [`Unit::master`]; summed over micro-batches.
#[derive(Debug)]
pub(crate) struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    pub(crate) fn none(units: &Units) -> Self {
        Self(units.all.iter().map(|_| None).collect())
    }

    /// Adds to one unit's gradient. The first one is taken as it is, so nothing is ever filled with zeros.
    pub(crate) fn add(&mut self, unit: usize, gradient: Tensor) -> Result<()> {
        match &mut self.0[unit] {
            Some(sum) => drop(sum.f_add_(&gradient)?),
            none => *none = Some(gradient.f_to_kind(Kind::Float)?),
        }
        Ok(())
    }

    /// One flat fp32 gradient per unit.
    ///
    /// # Errors
    /// [`Error::TensorCount`] if no backward pass has been added.
    pub(crate) fn into_inner(self) -> Result<Vec<Tensor>> {
        let (expected, found) = (self.0.len(), self.0.iter().flatten().count());
        let gradients: Option<Vec<Tensor>> = self.0.into_iter().collect();
        gradients.ok_or(Error::TensorCount { expected, found })
    }
}
