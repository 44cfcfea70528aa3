//! Which libtorch this is.

use std::ffi::CStr;

use crate::{Result, ffi};

/// The libtorch that the program runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As PyTorch numbers it: `2.11.0`.
    pub libtorch: String,
    /// CUDA that libtorch was built with, as `13.0`; none in a libtorch for CPUs.
    pub cuda: Option<String>,
}

/// Asks libtorch.
///
/// # Errors
///
/// Whatever libtorch throws.
pub fn version() -> Result<Version> {
    let (mut libtorch, mut cuda) = (std::ptr::null(), 0);
    // SAFETY: both places outlive the call.
    unsafe { ffi::check("version", ffi::btx_versions(&raw mut libtorch, &raw mut cuda))? };
    // SAFETY: the shim wrote a string literal of its own.
    let libtorch = unsafe { CStr::from_ptr(libtorch) }.to_string_lossy().into_owned();
    let cuda = (cuda > 0).then(|| format!("{}.{}", cuda / 1000, cuda % 1000 / 10));
    Ok(Version { libtorch, cuda })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_the_libtorch_that_this_is_built_for() {
        let version = version().unwrap();
        assert!(version.libtorch.starts_with("2.11."), "{version:?}");
        assert_eq!(version.cuda.is_some(), cfg!(feature = "cuda"), "{version:?}");
    }
}
