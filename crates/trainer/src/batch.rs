//! Tokens on their way into the model.

use std::borrow::Cow;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Sequences of token ids, each one longer than the context, so that every position has a target.
///
/// Position `t` of a sequence is an input for `t < sequence_length` and the target of position `t - 1` for `t > 0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    tokens: Vec<u32>,
    sequences: usize,
    sequence_length: usize,
}

impl TokenBatch {
    /// Takes `sequences` × (`sequence_length` + 1) token ids, sequence after sequence.
    ///
    /// # Errors
    /// [`Error::Batch`] if an extent is zero or does not fit the number of tokens.
    pub fn new(tokens: Vec<u32>, sequences: usize, sequence_length: usize) -> Result<Self> {
        let refuse = |reason: String| Error::Batch { sequences, sequence_length, reason };
        if sequences == 0 || sequence_length == 0 {
            return Err(refuse("both must be positive".into()));
        }
        let expected = sequence_length.checked_add(1).and_then(|n| n.checked_mul(sequences));
        if expected != Some(tokens.len()) {
            return Err(refuse(format!("each needs one token more, {} were given", tokens.len())));
        }
        Ok(Self { tokens, sequences, sequence_length })
    }

    /// The ids, `[sequences, sequence_length + 1]` row-major.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Number of predicted tokens in a sequence.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Number of predicted tokens in the batch.
    pub fn targets(&self) -> usize {
        self.sequences * self.sequence_length
    }

    /// Its first sequences, `count` of them or all.
    ///
    /// # Errors
    /// [`Error::Batch`] if `count` is zero.
    pub fn first(&self, count: usize) -> Result<Self> {
        let sequences = count.min(self.sequences);
        let tokens = self.tokens[..sequences * (self.sequence_length + 1)].to_vec();
        Self::new(tokens, sequences, self.sequence_length)
    }

    /// What `rank` of `ranks` takes of the sequences.
    ///
    /// # Errors
    /// [`Error::Batch`] if they cannot be shared out evenly.
    pub(crate) fn share(&self, rank: usize, ranks: usize) -> Result<Cow<'_, Self>> {
        let &Self { sequences, sequence_length, .. } = self;
        if ranks == 1 {
            return Ok(Cow::Borrowed(self));
        }
        if sequences % ranks != 0 {
            let reason = format!("they cannot be shared out evenly to {ranks} ranks");
            return Err(Error::Batch { sequences, sequence_length, reason });
        }
        let own = sequences / ranks;
        let row = sequence_length + 1;
        let tokens = self.tokens[own * rank * row..own * (rank + 1) * row].to_vec();
        Ok(Cow::Owned(Self { tokens, sequences: own, sequence_length }))
    }

    /// Runs of at most `sequences` sequences, in order.
    pub(crate) fn micro_batches(&self, sequences: usize) -> impl Iterator<Item = Ids<'_>> {
        let row = self.sequence_length + 1;
        self.tokens.chunks(sequences.max(1) * row).map(move |tokens| Ids { tokens, row })
    }

    /// Refuses what the model cannot take.
    ///
    /// An id out of range would make libtorch read outside the embedding's rows on a GPU (a device assert that
    /// poisons the process), so ids are checked here, before any tensor is made of them.
    pub(crate) fn check(&self, vocab_size: usize, longest: usize) -> Result<()> {
        check_length(self.sequences, self.sequence_length, longest)?;
        check_ids(&self.tokens, vocab_size)
    }
}

/// Refuses sequences beyond the context that the model is for.
pub(crate) fn check_length(sequences: usize, sequence_length: usize, longest: usize) -> Result<()> {
    if sequence_length > longest {
        let reason = format!("max_position_embeddings is {longest}");
        return Err(Error::Batch { sequences, sequence_length, reason });
    }
    Ok(())
}

/// Refuses token ids that the model does not have.
pub(crate) fn check_ids(tokens: &[u32], vocab_size: usize) -> Result<()> {
    match tokens.iter().position(|&id| id as usize >= vocab_size) {
        Some(position) => Err(Error::Token { id: tokens[position], position, vocab_size }),
        None => Ok(()),
    }
}

/// Some sequences of a batch, `row` tokens each.
pub(crate) struct Ids<'a> {
    tokens: &'a [u32],
    row: usize,
}

impl Ids<'_> {
    /// Inputs and targets, both int64 `[sequences, row - 1]` on `device`.
    pub(crate) fn to_tensors(&self, device: Device) -> Result<(Tensor, Tensor)> {
        let all = id_tensor(self.tokens, self.row, device)?;
        let length = self.row as i64 - 1;
        Ok((all.f_narrow(1, 0, length)?.f_contiguous()?, all.f_narrow(1, 1, length)?.f_contiguous()?))
    }
}

/// Ids as int64 `[tokens.len() / row, row]` on `device`.
pub(crate) fn id_tensor(tokens: &[u32], row: usize, device: Device) -> Result<Tensor> {
    let wide: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::f_from_slice(&wide)?.f_view([-1, row as i64])?;
    match device.is_cuda() {
        // From page-locked memory, for which the host need not wait; libtorch keeps it until it has been read.
        true => Ok(ids.f_pin_memory(device)?.f_to_device_(device, Kind::Int64, true, false)?),
        false => Ok(ids.f_to_device(device)?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn inputs_and_targets_are_shifted_by_one() {
        let batch = TokenBatch::new(vec![1, 2, 3, 4, 5, 6, 7, 8, 9], 3, 2).unwrap();
        let parts: Vec<_> = batch.micro_batches(2).map(|ids| ids.to_tensors(Device::Cpu).unwrap()).collect();
        assert_eq!(parts.len(), 2);
        let flat = |t: &Tensor| Vec::<i64>::try_from(t.view(-1)).unwrap();
        assert_eq!((flat(&parts[0].0), flat(&parts[0].1)), (vec![1, 2, 4, 5], vec![2, 3, 5, 6]));
        assert_eq!((flat(&parts[1].0), flat(&parts[1].1)), (vec![7, 8], vec![8, 9]));
    }

    #[test]
    fn misfits_are_refused() {
        assert!(matches!(TokenBatch::new(vec![0; 9], 2, 4), Err(Error::Batch { .. })));
        assert!(matches!(TokenBatch::new(vec![], 0, 4), Err(Error::Batch { .. })));
        assert!(matches!(TokenBatch::new(vec![], usize::MAX, usize::MAX), Err(Error::Batch { .. })));
        let batch = TokenBatch::new(vec![0, 1, 7], 1, 2).unwrap();
        assert!(matches!(batch.check(7, 2), Err(Error::Token { id: 7, position: 2, vocab_size: 7 })));
        assert!(matches!(batch.check(8, 1), Err(Error::Batch { .. })));
        batch.check(8, 2).unwrap();
    }
}
