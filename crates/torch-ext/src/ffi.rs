//! The boundary to `shim.cpp`: its declarations, and the few helpers through which all calls go.

use std::ffi::{CStr, c_char};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::{Error, Result};

/// Hyper-parameters as the shim reads them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct AdamWScalars {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

/// The allocator's figures as the shim writes them, in bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct MemoryBytes {
    pub(crate) allocated: i64,
    pub(crate) peak_allocated: i64,
    pub(crate) reserved: i64,
    pub(crate) peak_reserved: i64,
}

/// A c10d backend, which only the shim looks into.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Backend {
    _private: [u8; 0],
}

/// An operation of one, likewise.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Work {
    _private: [u8; 0],
}

/// Null, or an error text that is ours to free.
pub(crate) type Failure = *mut c_char;

/// One C++ tensor. The shim reads the handle and changes at most the storage behind it, which Rust never borrows.
pub(crate) type Handle = *const C_tensor;

unsafe extern "C" {
    fn btx_text_free(text: *mut c_char);
    pub(crate) fn btx_fused_adamw(
        params: *const Handle,
        grads: *const Handle,
        exp_avgs: *const Handle,
        exp_avg_sqs: *const Handle,
        steps: *const Handle,
        length: usize,
        options: *const AdamWScalars,
        found_inf: Handle,
    ) -> Failure;
    pub(crate) fn btx_global_norm(tensors: *const Handle, length: usize, out: *mut *mut C_tensor) -> Failure;
    pub(crate) fn btx_clip_global_norm(
        tensors: *const Handle,
        length: usize,
        max_norm: f64,
        out: *mut *mut C_tensor,
    ) -> Failure;
    pub(crate) fn btx_foreach_copy(
        to: *const Handle,
        from: *const Handle,
        length: usize,
        non_blocking: bool,
    ) -> Failure;
    pub(crate) fn btx_foreach_add(
        to: *const Handle,
        from: *const Handle,
        length: usize,
        alpha: f64,
    ) -> Failure;
    pub(crate) fn btx_foreach_lerp(
        to: *const Handle,
        from: *const Handle,
        length: usize,
        weight: f64,
    ) -> Failure;
    pub(crate) fn btx_foreach_mul(tensors: *const Handle, length: usize, factor: f64) -> Failure;
    pub(crate) fn btx_foreach_zero(tensors: *const Handle, length: usize) -> Failure;
    pub(crate) fn btx_backward(outputs: *const Handle, gradients: *const Handle, length: usize) -> Failure;
    pub(crate) fn btx_set_grad(of: Handle, gradient: Handle) -> Failure;
    pub(crate) fn btx_rms_norm(x: Handle, weight: Handle, eps: f64, out: *mut *mut C_tensor) -> Failure;
    #[cfg(test)]
    pub(crate) fn btx_limit_vectors(bits: std::ffi::c_int);
    pub(crate) fn btx_swiglu(gate: Handle, up: Handle, out: *mut *mut C_tensor) -> Failure;
    pub(crate) fn btx_rotary(
        projected: Handle,
        cosines: Handle,
        sines: Handle,
        queries: i64,
        keys: i64,
        out: *mut *mut C_tensor,
    ) -> Failure;
    pub(crate) fn btx_park(of: Handle, scratch: Handle) -> Failure;
    pub(crate) fn btx_exchange(one: Handle, other: Handle) -> Failure;
    pub(crate) fn btx_cuda_memory(device: i8, out: *mut MemoryBytes) -> Failure;
    pub(crate) fn btx_cuda_reset_peaks(device: i8) -> Failure;
    pub(crate) fn btx_cuda_empty_cache() -> Failure;
    pub(crate) fn btx_versions(libtorch: *mut *const c_char, cuda: *mut i64) -> Failure;
    pub(crate) fn btx_group_new(
        transport: u8,
        path: *const c_char,
        rank: i32,
        world: i32,
        timeout: i64,
        out: *mut *mut Backend,
    ) -> Failure;
    pub(crate) fn btx_group_all_gather(
        group: *mut Backend,
        full: Handle,
        shard: Handle,
        out: *mut *mut Work,
    ) -> Failure;
    pub(crate) fn btx_group_reduce_scatter(
        group: *mut Backend,
        shard: Handle,
        full: Handle,
        out: *mut *mut Work,
    ) -> Failure;
    pub(crate) fn btx_group_abort(group: *mut Backend) -> Failure;
    pub(crate) fn btx_group_check(group: *mut Backend) -> Failure;
    pub(crate) fn btx_group_free(group: *mut Backend);
    pub(crate) fn btx_work_wait(work: *mut Work) -> Failure;
    pub(crate) fn btx_work_free(work: *mut Work);
}

/// The C++ handles of a list of tensors; valid while the tensors are borrowed.
pub(crate) fn handles(tensors: &[Tensor]) -> Vec<Handle> {
    tensors.iter().map(Tensor::as_ptr).collect()
}

/// The handle of a tensor that may be absent.
pub(crate) fn optional(tensor: Option<&Tensor>) -> Handle {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

/// Turns what a shim function returned into a result, and frees the text.
///
/// # Safety
///
/// `failure` was returned by a shim function just now and by no other means.
pub(crate) unsafe fn check(operation: &'static str, failure: Failure) -> Result<()> {
    if failure.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated string from `strdup`, which nobody else has a pointer to;
    // it is copied before it is freed, and freed once.
    let message = unsafe {
        let message = CStr::from_ptr(failure).to_string_lossy().into_owned();
        btx_text_free(failure);
        message
    };
    Err(Error::Torch { operation, message })
}

/// Runs a shim function that hands out one tensor.
///
/// # Safety
///
/// `call` passes its argument as the `out` of a shim function and returns what that function returned.
pub(crate) unsafe fn returning(
    operation: &'static str,
    call: impl FnOnce(*mut *mut C_tensor) -> Failure,
) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    let failure = call(&raw mut out);
    // SAFETY: by this function's contract `failure` came from the shim just now.
    unsafe { check(operation, failure)? };
    // SAFETY: on success the shim wrote a tensor made with `new`, which is ours; `Tensor` deletes it once.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Refuses two lists of different length: the shim takes one length for both.
pub(crate) fn same_length(
    operation: &'static str,
    expected: usize,
    lists: &[(&'static str, &[Tensor])],
) -> Result<()> {
    match lists.iter().find(|(_, list)| list.len() != expected) {
        None => Ok(()),
        Some(&(name, list)) => Err(Error::Length { operation, name, found: list.len(), expected }),
    }
}
