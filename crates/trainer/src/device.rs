//! Where the model runs and in which precision it computes.

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device, Kind};

use crate::{Error, Result};

/// The device that the caller wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device itself.
    ///
    /// # Errors
    /// [`Error::Device`] if libtorch does not see the CUDA device.
    pub(crate) fn resolve(self) -> Result<Device> {
        let found = Cuda::device_count();
        match self {
            Self::Auto if found > 0 => Ok(Device::Cuda(0)),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) if i64::try_from(index).is_ok_and(|index| index < found) => {
                Ok(Device::Cuda(index))
            }
            Self::Cuda(index) => Err(Error::Device { wanted: format!("cuda:{index}"), found }),
        }
    }
}

/// The precision of activations and of the weights in matrix products; master weights are always fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// bf16 on CUDA and on CPUs with AMX, else fp32.
    #[default]
    Auto,
    /// IEEE single precision.
    Float32,
    /// bfloat16: correct on every device, fast only on those that `Auto` picks it for.
    BFloat16,
}

impl ComputeDtype {
    pub(crate) fn resolve(self, device: Device) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::BFloat16 => Kind::BFloat16,
            Self::Auto if device.is_cuda() || cpu_has_amx() => Kind::BFloat16,
            Self::Auto => Kind::Float,
        }
    }
}

/// Whether the CPU multiplies bf16 matrices faster than fp32 ones: it has AMX.
///
/// AVX512-BF16 alone is no reason: on a Sapphire Rapids without AMX, oneDNN's bf16 product of 2048×2048 matrices ran
/// at half the speed of its fp32 one. The kernel lists the flag only if it also keeps the tiles' state, and the standard
/// library cannot detect AMX yet.
fn cpu_has_amx() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "amx_bf16"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_absent_gpu_is_refused_by_name() {
        let error = DeviceChoice::Cuda(usize::MAX).resolve().unwrap_err();
        assert!(error.to_string().contains("cuda:18446744073709551615"), "{error}");
        assert_eq!(DeviceChoice::Cpu.resolve().unwrap(), Device::Cpu);
    }

    #[test]
    fn explicit_precision_is_obeyed() {
        assert_eq!(ComputeDtype::Float32.resolve(Device::Cuda(0)), Kind::Float);
        assert_eq!(ComputeDtype::BFloat16.resolve(Device::Cpu), Kind::BFloat16);
        assert_eq!(ComputeDtype::Auto.resolve(Device::Cuda(0)), Kind::BFloat16);
    }
}
