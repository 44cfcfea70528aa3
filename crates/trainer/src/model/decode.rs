//! One token after the other: what has passed is kept, not computed again.

use tch::Tensor;

use super::{Llama, attention::Past, block::block, norm::rms_norm};
use crate::Result;

/// A sequence on its way through the model, with the keys and values of its positions so far.
#[derive(Debug)]
pub(crate) struct Decoding {
    pasts: Vec<Past>,
    length: i64,
}

impl Decoding {
    /// Nothing yet, and room for `capacity` positions, at most the model's context.
    pub(crate) fn new(model: &Llama, capacity: i64) -> Result<Self> {
        // As long as it can get, so that no table is made anew on the way.
        model.rope_at(0, capacity)?;
        let past = |_| Past::new(&model.shape, capacity, model.kind(), model.device);
        Ok(Self { pasts: (0..model.config.num_hidden_layers).map(past).collect::<Result<_>>()?, length: 0 })
    }

    /// Back to nothing; the room stays.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
        self.pasts.iter_mut().for_each(Past::clear);
    }

    /// fp32 logits `[vocab]` after the last of `ids`, int64 `[1, count]`: all of the prompt at first, then one at a time.
    pub(crate) fn extend(&mut self, model: &Llama, ids: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let count = ids.size()[1];
        let rope = model.rope_at(self.length, count)?;
        let mut x = model.embed(ids)?;
        for (layer, past) in self.pasts.iter_mut().enumerate() {
            let weights = model.units.weights(model.units.block(layer), false)?;
            x = block(&weights, &x, &rope, &model.shape, Some(past))?;
        }
        self.length += count;
        let last = x.f_select(1, count - 1)?.f_select(0, 0)?;
        let normal = rms_norm(&last, &model.units.weights(model.units.norm(), false)?, model.shape.eps)?;
        model.logits(&normal)
    }
}
