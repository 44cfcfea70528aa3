//! Gradients, summed over micro-batches and over ranks.

use tch::{Kind, Tensor};

use super::Units;
use crate::{Error, Result, ranks::Reducing};

/// Gradients of all units, fp32 and flat like [`Unit::master`](super::unit::Unit::master), of which they have the length:
/// of several ranks each has the sum over all of them, for its own share.
#[derive(Debug)]
pub(crate) struct Gradients {
    sums: Vec<Option<Tensor>>,
    /// The sum over ranks that is under way, while the next block is computed.
    under_way: Option<(usize, Reducing)>,
}

impl Gradients {
    pub(crate) fn none(units: &Units) -> Self {
        Self { sums: units.all.iter().map(|_| None).collect(), under_way: None }
    }

    /// Adds to one unit's gradient, from all its elements.
    pub(crate) fn add(&mut self, units: &Units, unit: usize, gradient: Tensor) -> Result<()> {
        if !units.is_sharded() {
            return self.add_own(unit, gradient);
        }
        let filled = units.all[unit].master.size()[0] * units.group.world() as i64;
        let missing = filled - gradient.size()[0];
        let gradient = gradient.f_to_kind(Kind::Float)?.f_constant_pad_nd([0, missing])?;
        let reducing = units.group.reduce_scatter(&gradient)?;
        self.arrive()?;
        self.under_way = Some((unit, reducing));
        Ok(())
    }

    /// The first one is taken as it is, so nothing is ever filled with zeros.
    fn add_own(&mut self, unit: usize, gradient: Tensor) -> Result<()> {
        match &mut self.sums[unit] {
            Some(sum) => drop(sum.f_add_(&gradient)?),
            none => *none = Some(gradient.f_to_kind(Kind::Float)?),
        }
        Ok(())
    }

    fn arrive(&mut self) -> Result<()> {
        let Some((unit, reducing)) = self.under_way.take() else { return Ok(()) };
        self.add_own(unit, reducing.wait()?)
    }

    /// One flat fp32 gradient per unit.
    ///
    /// # Errors
    /// [`Error::TensorCount`] if no backward pass has been added; [`Error::Rank`].
    pub(crate) fn into_inner(mut self) -> Result<Vec<Tensor>> {
        self.arrive()?;
        let (expected, found) = (self.sums.len(), self.sums.iter().flatten().count());
        let gradients: Option<Vec<Tensor>> = self.sums.into_iter().collect();
        gradients.ok_or(Error::TensorCount { expected, found })
    }
}
