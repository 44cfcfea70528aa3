//! One block's way through a step: the seam where recomputation, gathering and reducing hang.

use std::slice;

use brigade_torch_ext::autograd;
use tch::Tensor;

use super::{Gradients, Llama, block::block, rope::Rope};
use crate::Result;

/// One block on its way through a step: its input, its weights and, unless it will be recomputed, its graph.
pub(super) struct BlockRun {
    layer: usize,
    input: Tensor,
    graph: Option<(Tensor, Tensor)>,
}

impl BlockRun {
    /// Runs the block on `input`; returns the output cut off from the graph.
    pub(super) fn forward(
        model: &Llama,
        layer: usize,
        mut input: Tensor,
        rope: &Rope,
    ) -> Result<(Self, Tensor)> {
        if model.recompute.is_for(layer) {
            let _guard = tch::no_grad_guard();
            let weights = model.units.weights(model.units.block(layer), false)?;
            model.units.prefetch(model.units.block(layer) + 1)?;
            let output = block(&weights, &input, rope, &model.shape, None)?;
            return Ok((Self { layer, input, graph: None }, output));
        }
        let input = input.f_requires_grad_(true)?;
        let graph = Self::graph(model, layer, &input, rope, Some(layer + 1))?;
        if model.units.is_sharded() {
            model.park(&graph.0)?;
        }
        let output = graph.1.f_detach()?;
        Ok((Self { layer, input, graph: Some(graph) }, output))
    }

    /// The block's weights as a leaf, and its output with the graph that leads to it. Meanwhile the weights of block `next`
    /// are gathered (of what follows the last one, if that is next).
    fn graph(
        model: &Llama,
        layer: usize,
        input: &Tensor,
        rope: &Rope,
        next: Option<usize>,
    ) -> Result<(Tensor, Tensor)> {
        let weights = model.units.weights(model.units.block(layer), true)?;
        next.map_or(Ok(()), |next| model.units.prefetch(model.units.block(next)))?;
        let output = tch::with_grad(|| block(&weights, input, rope, &model.shape, None))?;
        Ok((weights, output))
    }

    /// Adds the gradient of the block's weights; returns that of its input for that of its output.
    pub(super) fn backward(
        mut self,
        model: &Llama,
        rope: &Rope,
        gradient: Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let input = self.input.f_requires_grad_(true)?;
        let before = self.layer.checked_sub(1);
        let (weights, output) = match self.graph {
            Some(graph) => {
                if model.units.is_sharded() {
                    autograd::unpark(&graph.0, model.units.weights(model.units.block(self.layer), false)?)?;
                    before.map_or(Ok(()), |before| model.units.prefetch(model.units.block(before)))?;
                }
                graph
            }
            None => Self::graph(model, self.layer, &input, rope, before)?,
        };
        let [gradient, weights] = vjp(&output, &gradient, [&input, &weights])?;
        gradients.add(&model.units, model.units.block(self.layer), weights)?;
        Ok(gradient)
    }
}

/// Gradients of `inputs`, leaves of the graph of `output`, for the `gradient` of `output`. The graph is freed.
pub(super) fn vjp<const N: usize>(
    output: &Tensor,
    gradient: &Tensor,
    inputs: [&Tensor; N],
) -> Result<[Tensor; N]> {
    autograd::backward(slice::from_ref(output), slice::from_ref(gradient))?;
    let mut gradients = Vec::with_capacity(N);
    for input in inputs {
        gradients.push(input.f_grad()?);
        // A leaf that lives on (a block's input does, if it is recomputed) must not add to this gradient later.
        autograd::set_grad(input, None)?;
    }
    Ok(gradients.try_into().expect("as many gradients as inputs"))
}
