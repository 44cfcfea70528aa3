//! Where moments lie between steps: beside their parameters, or in the host's memory.

use brigade_torch_ext::foreach;
use tch::{Cuda, Device, Kind, Tensor};

use crate::Result;

/// Most elements of a block of host memory, a GiB of fp32. libtorch rounds page-locked memory up to a power of two, so that a
/// block for each moment would waste up to half of it; blocks of powers of two, each as large as what is still to come has
/// room for, waste nothing.
const BLOCK: i64 = 1 << 28;
/// Least elements of a block, a MiB: all that the last one may waste.
const LEAST_BLOCK: i64 = 1 << 18;

/// One moment of one span, fp32 and flat.
#[derive(Debug)]
pub(super) enum Moment {
    /// On the device of the parameters.
    Beside(Tensor),
    /// In the host's memory, in pieces one after the other.
    Resting(Vec<Tensor>),
}

impl Moment {
    /// The moment on the device of its parameters: itself, or a copy that is to be [kept](Self::keep). The host does not wait.
    pub(super) fn bring(&self, device: Device) -> Result<Tensor> {
        match self {
            Self::Beside(moment) => Ok(moment.shallow_clone()),
            Self::Resting(pieces) => {
                let whole = Tensor::f_empty([self.numel()], (Kind::Float, device))?;
                if !pieces.is_empty() {
                    foreach::copy_ahead_(&cut(&whole, pieces)?, pieces)?;
                }
                Ok(whole)
            }
        }
    }

    /// Puts back what [`bring`](Self::bring) gave. The host does not wait.
    pub(super) fn keep(&self, moment: &Tensor) -> Result<()> {
        match self {
            Self::Resting(pieces) if !pieces.is_empty() => {
                Ok(foreach::copy_ahead_(pieces, &cut(moment, pieces)?)?)
            }
            _ => Ok(()),
        }
    }

    /// The moment in one piece, for the host to read: after [`Storage::settle`].
    pub(super) fn read(&self) -> Result<Tensor> {
        match self {
            Self::Beside(moment) => Ok(moment.shallow_clone()),
            Self::Resting(pieces) if pieces.is_empty() => Ok(Tensor::f_zeros([0], tch::kind::FLOAT_CPU)?),
            Self::Resting(pieces) => Ok(Tensor::f_cat(pieces, 0)?),
        }
    }

    /// Overwrites the moment by `value`, which is as long and may be anywhere.
    pub(super) fn write(&mut self, value: &Tensor) -> Result<()> {
        match self {
            Self::Beside(moment) => Ok(moment.f_copy_(value)?),
            Self::Resting(pieces) if pieces.is_empty() => Ok(()),
            Self::Resting(pieces) => Ok(foreach::copy_(pieces, &cut(value, pieces)?)?),
        }
    }

    pub(super) fn numel(&self) -> i64 {
        match self {
            Self::Beside(moment) => moment.numel() as i64,
            Self::Resting(pieces) => pieces.iter().map(|piece| piece.numel() as i64).sum(),
        }
    }
}

/// Views of `whole` as long as the `pieces`.
fn cut(whole: &Tensor, pieces: &[Tensor]) -> Result<Vec<Tensor>> {
    let lengths: Vec<i64> = pieces.iter().map(|piece| piece.numel() as i64).collect();
    Ok(whole.f_split_with_sizes(&lengths[..], 0)?)
}

/// Where new moments are put.
#[derive(Debug)]
pub(super) enum Storage {
    /// Beside their parameters.
    Beside,
    /// In blocks of the host's memory, page-locked if the parameters are on a GPU: only such memory is copied while the
    /// host goes on.
    Host {
        /// Where the parameters are.
        device: Device,
        /// Elements that are still to come.
        to_come: i64,
        /// What is left of the block that was made last.
        block: Tensor,
        /// Most elements of a block, a power of two.
        largest: i64,
    },
}

impl Storage {
    /// Host memory for `total` elements of moments.
    pub(super) fn host(device: Device, total: i64) -> Result<Self> {
        let block = Tensor::f_zeros([0], tch::kind::FLOAT_CPU)?;
        Ok(Self::Host { device, to_come: total, block, largest: BLOCK })
    }

    /// A moment of zeros for `parameter`, 1-D.
    pub(super) fn zeros_like(&mut self, parameter: &Tensor) -> Result<Moment> {
        let Self::Host { device, to_come, block, largest } = self else {
            return Ok(Moment::Beside(parameter.f_zeros_like()?));
        };
        let (mut pieces, mut missing) = (Vec::new(), parameter.numel() as i64);
        while missing > 0 {
            if block.numel() == 0 {
                let elements = 1 << (*to_come).max(1).ilog2();
                let elements = elements.max(LEAST_BLOCK).min(*largest);
                let zeros = Tensor::f_zeros([elements], tch::kind::FLOAT_CPU)?;
                *block = if device.is_cuda() { zeros.f_pin_memory(*device)? } else { zeros };
            }
            let (length, left) = (missing.min(block.numel() as i64), block.numel() as i64);
            pieces.push(block.f_narrow(0, 0, length)?);
            *block = block.f_narrow(0, length, left - length)?;
            (missing, *to_come) = (missing - length, *to_come - length);
        }
        Ok(Moment::Resting(pieces))
    }

    /// Waits until what was kept in the host's memory has arrived there.
    pub(super) fn settle(&self) {
        if let Self::Host { device: Device::Cuda(index), .. } = self {
            Cuda::synchronize(*index as i64);
        }
    }

    /// How many spans' moments are brought at once: all, or as few as there can be.
    pub(super) fn at_once(&self) -> usize {
        match self {
            Self::Beside => usize::MAX,
            Self::Host { .. } => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn moments_go_from_block_to_block_and_come_back_whole() {
        let parameters: Vec<Tensor> =
            [5, 0, 17, 1, 8].map(|n| Tensor::zeros([n], tch::kind::FLOAT_CPU)).into();
        let mut storage = Storage::host(Device::Cpu, 31).unwrap();
        if let Storage::Host { largest, .. } = &mut storage {
            *largest = 8;
        }
        let mut moments: Vec<_> = parameters.iter().map(|p| storage.zeros_like(p).unwrap()).collect();
        let Storage::Host { to_come: 0, block, .. } = &storage else { panic!("{storage:?}") };
        assert_eq!(block.numel(), 1, "31 elements are four blocks of eight, less one");
        let pieces = |moment: &Moment| match moment {
            Moment::Resting(pieces) => pieces.iter().map(|piece| piece.numel()).collect::<Vec<_>>(),
            Moment::Beside(_) => panic!("offloaded"),
        };
        assert_eq!(pieces(&moments[2]), [3, 8, 6]);
        for (number, moment) in moments.iter_mut().enumerate() {
            let values = Tensor::arange(moment.numel(), tch::kind::FLOAT_CPU) + 100.0 * number as f64;
            moment.write(&values).unwrap();
            let brought = moment.bring(Device::Cpu).unwrap();
            assert_eq!(brought, values);
            // A copy: nothing changes before it is kept.
            let changed = brought.shallow_clone() * 2.0;
            assert_eq!(moment.read().unwrap(), values);
            moment.keep(&changed).unwrap();
            assert_eq!(moment.read().unwrap(), &values * 2.0);
        }
        assert_eq!(moments.iter().map(Moment::numel).sum::<i64>(), 31);
    }
}
