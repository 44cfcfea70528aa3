//! What the CUDA caching allocator holds on a device, and what the C library keeps on the CPU.

use tch::Device;

use crate::ffi::{self, MemoryBytes};
use crate::{Error, Result};

/// Bytes that the caching allocator holds on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// In live tensors.
    pub allocated: u64,
    /// The most that were in live tensors since the start or the last [`reset_peaks`].
    pub peak_allocated: u64,
    /// Taken from the driver, live tensors and cache together.
    pub reserved: u64,
    /// The most that were taken from the driver since the start or the last [`reset_peaks`].
    pub peak_reserved: u64,
}

/// Reads the allocator's figures for a CUDA device.
///
/// # Errors
///
/// A device that is not CUDA, or a libtorch or a machine without CUDA.
pub fn memory(device: Device) -> Result<Memory> {
    let index = cuda_index("memory", device)?;
    let mut bytes = MemoryBytes::default();
    // SAFETY: `bytes` has the layout of the shim's struct and outlives the call.
    unsafe { ffi::check("memory", ffi::btx_cuda_memory(index, &raw mut bytes))? };
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Memory {
        allocated: unsigned(bytes.allocated),
        peak_allocated: unsigned(bytes.peak_allocated),
        reserved: unsigned(bytes.reserved),
        peak_reserved: unsigned(bytes.peak_reserved),
    })
}

/// Lets the peaks start anew from what is held now.
///
/// # Errors
///
/// As [`memory`].
pub fn reset_peaks(device: Device) -> Result<()> {
    let index = cuda_index("reset_peaks", device)?;
    // SAFETY: a plain number goes in and the shim's own text comes out.
    unsafe { ffi::check("reset_peaks", ffi::btx_cuda_reset_peaks(index)) }
}

/// Returns cached, unused memory of all CUDA devices to the driver, for other processes to use.
///
/// # Errors
///
/// A libtorch or a machine without CUDA.
pub fn empty_cache() -> Result<()> {
    // SAFETY: nothing goes in and the shim's own text comes out.
    unsafe { ffi::check("empty_cache", ffi::btx_cuda_empty_cache()) }
}

/// Lets this process keep freed memory for what comes next, as libtorch does on a GPU by itself.
///
/// On the CPU libtorch takes every tensor from the C library, which by default gives large blocks back to the kernel at
/// once: training then spends 4 to 6 % of its time on touching the same pages anew at every step. Blocks beyond 32 MiB are given
/// back all the same. Does nothing with a C library other than glibc, or if `MALLOC_MMAP_THRESHOLD_` or
/// `MALLOC_TRIM_THRESHOLD_` is set.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        // Who has set it otherwise knows why.
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"].into_iter().any(is_set) {
            return;
        }
        const M_TRIM_THRESHOLD: c_int = -1;
        const M_MMAP_THRESHOLD: c_int = -3;
        // SAFETY: glibc's own function, with its own constants; it takes the allocator's lock. Whether it took the
        // values only matters for speed.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, 32 << 20);
            mallopt(M_TRIM_THRESHOLD, c_int::MAX);
        }
    }
}

fn cuda_index(operation: &'static str, device: Device) -> Result<i8> {
    match device {
        Device::Cuda(index) => i8::try_from(index).map_err(|_| Error::NotCuda { operation, device }),
        _ => Err(Error::NotCuda { operation, device }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn figures_come_from_cuda_or_the_lack_of_it_is_said() {
        assert!(matches!(memory(Device::Cpu), Err(Error::NotCuda { .. })));
        if !tch::Cuda::is_available() {
            assert!(matches!(memory(Device::Cuda(0)), Err(Error::Torch { .. })));
            assert!(matches!(empty_cache(), Err(Error::Torch { .. })));
            return;
        }
        let device = Device::Cuda(0);
        let held = tch::Tensor::zeros([1 << 20], (tch::Kind::Float, device));
        let with = memory(device).unwrap();
        assert!(with.allocated >= 4 << 20 && with.reserved >= with.allocated);
        drop(held);
        assert!(memory(device).unwrap().allocated <= with.allocated - (4 << 20));
        assert!(memory(device).unwrap().peak_allocated >= with.allocated);
        reset_peaks(device).unwrap();
        assert!(memory(device).unwrap().peak_allocated < with.allocated);
        empty_cache().unwrap();
    }
}
