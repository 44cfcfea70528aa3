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
    /// Whether the device is there, and no CPU.
    ///
    /// # Errors
    /// [`Error::Device`] if libtorch does not see the CUDA device.
    pub fn is_cuda(self) -> Result<bool> {
        self.resolve().map(|device| device.is_cuda())
    }

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

/// CUDA devices that libtorch sees.
#[must_use]
pub fn cuda_devices() -> usize {
    usize::try_from(Cuda::device_count()).unwrap_or(0)
}

/// How the ranks of one model exchange tensors that are on GPUs. Those on CPUs always go over the ranks' sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    /// From GPU to GPU, over NCCL. To be asked for: it has not yet run on several GPUs.
    Nccl,
    /// By way of the host's memory, over the sockets.
    #[default]
    Host,
}

/// The precision of activations and of the weights in matrix products; master weights are always fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// bf16 on CUDA and on CPUs that are faster in it, else fp32.
    #[default]
    Auto,
    /// IEEE single precision.
    Float32,
    /// bfloat16: correct on every device, fast only on those that `Auto` picks it for. Where a CPU multiplies bf16
    /// matrices more slowly than fp32 ones, activations are bf16 and products are made in fp32.
    BFloat16,
}

/// What a model computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Precision {
    /// Dtype of activations.
    pub(crate) activations: Kind,
    /// Dtype in which matrices are multiplied. Weights are rounded to the activations' dtype in any case.
    pub(crate) products: Kind,
}

impl Precision {
    pub(crate) const FLOAT32: Self = Self { activations: Kind::Float, products: Kind::Float };
    pub(crate) const BFLOAT16: Self = Self { activations: Kind::BFloat16, products: Kind::BFloat16 };
    /// bf16 where multiplying in it is slow. A product of two bf16 numbers is exact in fp32, and sums are fp32 either
    /// way, so only the order of the sums differs.
    pub(crate) const BFLOAT16_WIDENED: Self = Self { activations: Kind::BFloat16, products: Kind::Float };
}

impl ComputeDtype {
    pub(crate) fn resolve(self, device: Device) -> Precision {
        let is_fast = device.is_cuda() || cpu_is_fast_in_bf16();
        match self {
            Self::BFloat16 | Self::Auto if is_fast => Precision::BFLOAT16,
            Self::BFloat16 => Precision::BFLOAT16_WIDENED,
            Self::Float32 | Self::Auto => Precision::FLOAT32,
        }
    }
}

/// Whether the CPU multiplies bf16 matrices faster than fp32 ones.
fn cpu_is_fast_in_bf16() -> bool {
    is_fast_in_bf16(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// The same by what Linux says of a CPU: it has AMX, or AVX512-BF16 and is AMD's.
///
/// AVX512-BF16 alone is no reason: on a Sapphire Rapids without AMX, oneDNN's bf16 product of 2048×2048 matrices ran
/// at half the speed of its fp32 one, on a Genoa at nearly twice. By name and not by a measurement, so that a peer computes the
/// same bits every time it starts. The kernel lists AMX only if it also keeps the tiles' state, and the standard
/// library cannot detect it yet.
fn is_fast_in_bf16(cpuinfo: &str) -> bool {
    let line = |key: &str| {
        let of_key = |line: &str| {
            line.split_once(':').filter(|(name, _)| name.trim() == key).map(|(_, value)| value.to_owned())
        };
        cpuinfo.lines().find_map(of_key).unwrap_or_default()
    };
    let flags = line("flags");
    let has = |wanted| flags.split_ascii_whitespace().any(|flag| flag == wanted);
    has("amx_bf16") || has("avx512_bf16") && line("vendor_id").trim() == "AuthenticAMD"
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
    fn bf16_is_for_cpus_that_are_faster_in_it() {
        let cpu = |vendor: &str, flags: &str| {
            format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse\n")
        };
        for (vendor, flags, is_fast) in [
            ("AuthenticAMD", "avx512_bf16", true),
            ("GenuineIntel", "avx512_bf16", false),
            ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", true),
            ("AuthenticAMD", "avx512f", false),
        ] {
            assert_eq!(is_fast_in_bf16(&cpu(vendor, flags)), is_fast, "{vendor} {flags}");
        }
        assert!(!is_fast_in_bf16(""));
    }

    #[test]
    fn explicit_precision_is_obeyed() {
        assert_eq!(ComputeDtype::Float32.resolve(Device::Cuda(0)), Precision::FLOAT32);
        assert_eq!(ComputeDtype::BFloat16.resolve(Device::Cpu).activations, Kind::BFloat16);
        assert_eq!(ComputeDtype::Auto.resolve(Device::Cuda(0)), Precision::BFLOAT16);
    }
}
