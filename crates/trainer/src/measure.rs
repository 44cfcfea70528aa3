//! What the device of a [`Trainer`] can do, and how much of its memory training has taken.

use std::time::Instant;

use brigade_torch_ext::memory;
use tch::{Cuda, Device, Tensor};

use crate::{Result, Trainer};

/// Matrix products that are timed; the fastest counts.
const PRODUCTS: usize = 5;

impl Trainer {
    /// FLOP/s of a large square matrix product on this trainer's device, in the dtype that it computes in: what it could do at most.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    pub fn matmul_flops(&self) -> Result<f64> {
        let size = if self.device() == Device::Cpu { 2048 } else { 8192 };
        let options = (self.compute_kind(), self.device());
        let (a, b) = (Tensor::f_ones([size, size], options)?, Tensor::f_ones([size, size], options)?);
        let mut best = f64::INFINITY;
        // The first one also makes the kernel.
        for _ in 0..=PRODUCTS {
            self.synchronize();
            let start = Instant::now();
            drop(a.f_matmul(&b)?);
            self.synchronize();
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(2.0 * (size as f64).powi(3) / best)
    }

    /// The most bytes that libtorch has taken from a GPU since the start or the last
    /// [`forget_peak_memory`](Self::forget_peak_memory), its cache included; `None` on a CPU, whose memory is the process's.
    ///
    /// # Errors
    /// [`Error::Extension`](crate::Error::Extension).
    pub fn peak_memory(&self) -> Result<Option<u64>> {
        match self.device() {
            Device::Cuda(_) => Ok(Some(memory::memory(self.device())?.peak_reserved)),
            _ => Ok(None),
        }
    }

    /// Makes the peak what is held now, after a GPU's cache was given back.
    ///
    /// # Errors
    /// [`Error::Extension`](crate::Error::Extension).
    pub fn forget_peak_memory(&self) -> Result<()> {
        if self.device().is_cuda() {
            memory::empty_cache()?;
            memory::reset_peaks(self.device())?;
        }
        Ok(())
    }

    /// The index of the GPU that this trainer is on; `None` on a CPU.
    pub fn cuda_index(&self) -> Option<usize> {
        match self.device() {
            Device::Cuda(index) => Some(index),
            _ => None,
        }
    }

    /// Waits until the device has done what it was told; a CPU has done so already.
    fn synchronize(&self) {
        if let Device::Cuda(index) = self.device() {
            Cuda::synchronize(index as i64);
        }
    }
}
