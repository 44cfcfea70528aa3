//! What the device of a trainer can do, and how much memory training has taken there.

use std::time::{Duration, Instant};

use brigade_torch_ext::memory;
use tch::{Device, Kind, Tensor};

use crate::{Result, Trainer};

/// How long a product is repeated.
const PATIENCE: Duration = Duration::from_millis(200);

impl Trainer {
    /// Floating-point operations a second of a square matrix product on this device, in the dtype in which this model
    /// multiplies matrices: the best of as many as fit into a fifth of a second, and of three at least.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    pub fn measure_matmul(&self) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let (device, kind) = (self.device(), self.product_kind());
        let size: i64 = if device == Device::Cpu { 1024 } else { 8192 };
        let [a, b] = [(); 2].map(|()| Tensor::f_ones([size, size], (kind, device)));
        let (a, b) = (a?, b?);
        let (mut best, mut done) = (Duration::MAX, 0);
        let started = Instant::now();
        while done < 3 || started.elapsed() < PATIENCE {
            let start = Instant::now();
            let product = a.f_matmul(&b)?;
            // One element on the host: by then all of them are there.
            product.f_get(0)?.f_get(0)?.f_to_kind(Kind::Float)?.f_double_value(&[])?;
            best = best.min(start.elapsed());
            done += 1;
        }
        Ok(2.0 * (size as f64).powi(3) / best.as_secs_f64())
    }

    /// The most that libtorch has taken from a GPU since [`forget_peak`](Self::forget_peak), in bytes; nothing on the CPU.
    ///
    /// # Errors
    /// [`Error::Extension`](crate::Error::Extension).
    pub fn peak_device_bytes(&self) -> Result<Option<u64>> {
        match self.device() {
            Device::Cuda(_) => Ok(Some(memory::memory(self.device())?.peak_reserved)),
            _ => Ok(None),
        }
    }

    /// Lets that peak start anew.
    ///
    /// # Errors
    /// [`Error::Extension`](crate::Error::Extension).
    pub fn forget_peak(&self) -> Result<()> {
        match self.device() {
            Device::Cuda(_) => Ok(memory::reset_peaks(self.device())?),
            _ => Ok(()),
        }
    }

    /// The device for a person: `the CPU`, or `cuda:0`.
    pub fn device_name(&self) -> String {
        match self.device() {
            Device::Cuda(index) => format!("cuda:{index}"),
            Device::Cpu => "the CPU".into(),
            other => format!("{other:?}"),
        }
    }

    /// The dtype in which matrices are multiplied: `bfloat16` or `float32`.
    pub fn product_dtype(&self) -> &'static str {
        if self.product_kind() == Kind::BFloat16 { "bfloat16" } else { "float32" }
    }

    /// Whether the model is on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        matches!(self.device(), Device::Cuda(_))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{ComputeDtype, DeviceChoice, TrainerConfig, model::tests::tiny};

    #[test]
    fn a_cpu_multiplies_and_has_no_memory_of_its_own() {
        let compute_dtype = ComputeDtype::Float32;
        let config = TrainerConfig { device: DeviceChoice::Cpu, compute_dtype, ..TrainerConfig::new(tiny()) };
        let trainer = Trainer::new(config).unwrap();
        let flops = trainer.measure_matmul().unwrap();
        assert!((1e8..1e14).contains(&flops), "{flops}");
        trainer.forget_peak().unwrap();
        assert_eq!(trainer.peak_device_bytes().unwrap(), None);
        assert_eq!((trainer.device_name().as_str(), trainer.product_dtype()), ("the CPU", "float32"));
    }
}
