//! What a backward pass by blocks needs: a block's output gradient comes from the block after it.

use tch::{Device, Kind, TchError, Tensor};

use crate::ffi;
use crate::{Error, Result};

/// Runs the backward pass from `outputs`, whose gradients are `gradients` (same shapes and kinds), and adds to the
/// `.grad` of every leaf. The graph is freed.
///
/// It is what `(output * gradient).sum().backward()` computes, without the product and the sum.
///
/// # Errors
///
/// Lists of different length, an output that is not part of a graph, or a gradient of another shape.
pub fn backward(outputs: &[Tensor], gradients: &[Tensor]) -> Result<()> {
    ffi::same_length("backward", outputs.len(), &[("gradients", gradients)])?;
    let (outputs, gradients) = (ffi::handles(outputs), ffi::handles(gradients));
    // SAFETY: both lists hold `outputs.len()` handles of tensors that are borrowed for the call.
    unsafe { ffi::check("backward", ffi::btx_backward(outputs.as_ptr(), gradients.as_ptr(), outputs.len())) }
}

/// Replaces the gradient of a leaf: by a tensor of the same shape, kind and device (the two then share it, so that
/// a backward pass adds into it), or by nothing.
///
/// # Errors
///
/// An undefined tensor, or a gradient that differs from it in shape, kind or device, or is not contiguous.
pub fn set_grad(of: &Tensor, gradient: Option<&Tensor>) -> Result<()> {
    // SAFETY: both handles are of tensors that are borrowed for the call; null stands for no gradient.
    unsafe { ffi::check("set_grad", ffi::btx_set_grad(of.as_ptr(), ffi::optional(gradient))) }
}

/// Memory that parked tensors point to. Nobody else has it, so it stays where it is for as long as one of them does.
#[derive(Debug)]
pub struct Scratch(Tensor);

impl Scratch {
    /// Memory for tensors with as many elements as this, of this kind, on this device.
    ///
    /// # Errors
    ///
    /// libtorch cannot allocate it.
    pub fn new(numel: i64, kind: Kind, device: Device) -> Result<Self> {
        let tensor = Tensor::f_empty([numel], (kind, device));
        let torch = |e: TchError| {
            let text = e.to_string();
            // Without the stack trace that follows.
            let message = text.lines().next().unwrap_or_default().to_owned();
            Error::Torch { operation: "Scratch::new", message }
        };
        Ok(Self(tensor.map_err(torch)?))
    }

    /// Frees the memory of `tensor`'s storage, and lets it, with every view of it that a graph has kept, point here.
    ///
    /// So a block's gathered weights can be let go between its forward and its backward pass, while its graph stays;
    /// [`unpark`] brings them back. The memory here is always large enough, so a graph that is run at the wrong time
    /// computes nonsense, but touches nothing else.
    ///
    /// # Errors
    ///
    /// A tensor on another device, or with a larger storage.
    pub fn park(&self, tensor: &Tensor) -> Result<()> {
        // SAFETY: both handles are of tensors that are borrowed for the call. The tensor's storage keeps the scratch
        // memory alive, and nothing moves that: its tensor is private and never passed to `btx_exchange`.
        unsafe { ffi::check("park", ffi::btx_park(tensor.as_ptr(), self.0.as_ptr())) }
    }
}

/// Gives `parked` the memory of `values`, whose storage is as large.
///
/// # Errors
///
/// Tensors on different devices, with storages of different size, or with the same one.
pub fn unpark(parked: &Tensor, values: Tensor) -> Result<()> {
    // SAFETY: both handles are of tensors that outlive the call. Each storage has an owner of memory of its size
    // afterwards, so views of either stay within bounds.
    unsafe { ffi::check("unpark", ffi::btx_exchange(parked.as_ptr(), values.as_ptr())) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn two_blocks_give_what_one_graph_gives() {
        let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let w1 = random([8, 16]).set_requires_grad(true);
        let w2 = random([16, 4]).set_requires_grad(true);
        let x = random([5, 8]);
        x.matmul(&w1).tanh().matmul(&w2).square().sum(Kind::Float).backward();
        let (whole1, whole2) = (w1.grad().copy(), w2.grad().copy());
        set_grad(&w1, None).unwrap();
        set_grad(&w2, None).unwrap();

        let hidden = x.matmul(&w1).tanh();
        let leaf = hidden.detach().set_requires_grad(true);
        leaf.matmul(&w2).square().sum(Kind::Float).backward();
        backward(&[hidden], &[leaf.grad()]).unwrap();
        assert_eq!(w1.grad(), whole1);
        assert_eq!(w2.grad(), whole2);
    }

    #[test]
    fn a_backward_pass_adds_into_the_gradient_that_was_set() {
        let flat = Tensor::ones([6], (Kind::Float, Device::Cpu));
        let w = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        set_grad(&w, Some(&flat.view([2, 3]))).unwrap();
        (&w * 2.0).sum(Kind::Float).backward();
        assert_eq!(flat, Tensor::full([6], 3.0, (Kind::Float, Device::Cpu)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let w = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let grad = |kind, size: &[i64]| Tensor::zeros(size, (kind, Device::Cpu));
        assert!(set_grad(&w, Some(&grad(Kind::Float, &[3, 2]))).is_err());
        assert!(set_grad(&w, Some(&grad(Kind::Double, &[2, 3]))).is_err());
        let out = &w * 1.0;
        assert!(backward(&[out.shallow_clone()], &[grad(Kind::Float, &[2, 2])]).is_err());
        assert!(backward(&[out], &[]).is_err());
        assert!(backward(&[w.detach()], &[grad(Kind::Float, &[2, 3])]).is_err());
    }

    #[test]
    fn a_graph_survives_that_its_weights_come_and_go() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (values, gradient) = (random(&[24]), random(&[5, 3]));
        // The gradient of x takes the weights that the graph has kept.
        let x = random(&[5, 8]).set_requires_grad(true);
        let run = |leaf: &Tensor| x.matmul(&leaf.view([8, 3]));
        let x_gradient = |out: Tensor| {
            backward(&[out], &[gradient.shallow_clone()]).unwrap();
            let found = x.grad().copy();
            set_grad(&x, None).unwrap();
            found
        };
        let expected = values.copy().set_requires_grad(true);
        let expected_of_x = x_gradient(run(&expected));

        let leaf = values.copy().set_requires_grad(true);
        let out = run(&leaf);
        let scratch = |numel| Scratch::new(numel, Kind::Float, Device::Cpu).unwrap();
        let parking = scratch(30);
        parking.park(&leaf).unwrap();
        assert_eq!(leaf.data_ptr(), parking.0.data_ptr());
        let fresh = values.copy();
        let place = fresh.data_ptr();
        unpark(&leaf, fresh).unwrap();
        assert_eq!(leaf.data_ptr(), place);
        assert_eq!(x_gradient(out), expected_of_x);
        assert_eq!(leaf.grad(), expected.grad());
        // While it is parked, the weights are not there.
        let out = run(&leaf);
        parking.park(&leaf).unwrap();
        assert_ne!(x_gradient(out), expected_of_x);
        unpark(&leaf, values.copy()).unwrap();

        assert!(scratch(23).park(&leaf).is_err());
        assert!(unpark(&leaf, random(&[23])).is_err());
        assert!(unpark(&leaf, leaf.detach()).is_err());
        // Parked, it outlives the scratch that it points to.
        parking.park(&leaf).unwrap();
        drop(parking);
        assert_eq!(leaf.detach().fill_(2.0).sum(Kind::Float).double_value(&[]), 48.0);
    }
}
