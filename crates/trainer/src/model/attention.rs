//! Causal self-attention with grouped key/value heads (GQA, arXiv 2305.13245).

use tch::{Device, Kind, Tensor};

use super::{Shape, mlp::Projection, rope::Rope};
use crate::Result;

/// What earlier positions have left for those to come: a block's keys and values.
#[derive(Debug)]
pub(crate) struct Past {
    /// `[1, kv_heads, capacity, head_dim]`, of which the first `length` positions are there.
    keys: Tensor,
    values: Tensor,
    length: i64,
}

impl Past {
    /// Room for `capacity` positions of one sequence.
    pub(crate) fn new(shape: &Shape, capacity: i64, kind: Kind, device: Device) -> Result<Self> {
        let room = || Tensor::f_empty([1, shape.kv_heads, capacity, shape.head_dim], (kind, device));
        Ok(Self { keys: room()?, values: room()?, length: 0 })
    }

    /// Forgets all, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// Appends `keys` and `values` `[1, kv_heads, count, head_dim]`; returns all there are.
    fn extend(&mut self, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let (before, count) = (self.length, keys.size()[2]);
        self.keys.f_narrow(2, before, count)?.f_copy_(keys)?;
        self.values.f_narrow(2, before, count)?.f_copy_(values)?;
        self.length += count;
        Ok((self.keys.f_narrow(2, 0, self.length)?, self.values.f_narrow(2, 0, self.length)?))
    }
}

/// Attention of `x` (`[batch, length, hidden]`). With a `past`, to which it is added, `x` is one sequence; it may be longer
/// than one position only if nothing has passed yet.
///
/// `qkv` is `[(heads + 2·kv_heads)·head_dim, hidden]`: the rows of the query, key and value projections; `output` is
/// `[hidden, heads·head_dim]`.
pub(crate) fn attention(
    x: &Tensor,
    qkv: &Projection<'_>,
    output: &Projection<'_>,
    rope: &Rope,
    shape: &Shape,
    past: Option<&mut Past>,
) -> Result<Tensor> {
    let Shape { heads, kv_heads, .. } = *shape;
    let (kind, products) = (x.f_kind()?, qkv.weight.f_kind()?);
    let projected = qkv.of(x)?.f_to_kind(kind)?;
    let by_head = |t: &Tensor| t.f_transpose(1, 2);
    let [queries, keys, values] = rope.split(&projected, heads, kv_heads)?;
    let (mut keys, mut values) = (by_head(&keys)?, by_head(&values)?);
    // libtorch lays its mask against the first key: a single position, which may see all of them, would see that one alone.
    let is_causal = x.size()[1] > 1;
    if let Some(past) = past {
        (keys, values) = past.extend(&keys, &values)?;
    }
    let mixed = Tensor::f_scaled_dot_product_attention(
        &by_head(&queries)?.f_to_kind(products)?,
        &keys.f_to_kind(products)?,
        &values.f_to_kind(products)?,
        None::<&Tensor>,
        0.0,
        is_causal,
        None,
        heads != kv_heads,
    )?;
    let mixed = mixed.f_transpose(1, 2)?.f_flatten(2, 3)?.f_to_kind(kind)?;
    Ok(output.of(&mixed)?.f_to_kind(kind)?)
}
