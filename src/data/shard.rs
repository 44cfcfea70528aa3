//! One shard in memory, and the sequences in it.

use std::fmt;

use brigade_protocol::{DatasetIndex, Digest, ShardId, ShardInfo};
use bytes::Bytes;

use super::DataError;

/// A shard whose hash has been checked against the index.
#[derive(Clone)]
pub struct Shard {
    id: ShardId,
    bytes: Bytes,
    token_bytes: usize,
    vocab_size: u32,
}

/// What an index says of a shard: all that is needed to check and read it.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) info: ShardInfo,
    token_bytes: usize,
    vocab_size: u32,
}

impl Said {
    /// `None` when the index, which must be valid, does not list the shard.
    pub(super) fn find(index: &DatasetIndex, id: ShardId) -> Option<Self> {
        let info = index.shard(id)?.clone();
        Some(Self { info, token_bytes: index.token_bytes as usize, vocab_size: index.vocab_size })
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({}, {} tokens)", self.id, self.num_tokens())
    }
}

impl Shard {
    /// Checks `bytes`, read from `key`, against what the index says of the shard.
    ///
    /// # Errors
    /// [`DataError::ShardLength`], [`DataError::ShardDigest`].
    pub(super) fn verify(id: ShardId, bytes: Bytes, said: &Said, key: &str) -> Result<Self, DataError> {
        let Said { info, token_bytes, vocab_size } = said;
        if bytes.len() as u64 != info.bytes {
            let (expected, found) = (info.bytes, bytes.len() as u64);
            return Err(DataError::ShardLength { key: key.into(), expected, found });
        }
        let found = Digest::of(&bytes);
        if found != info.sha256 {
            return Err(DataError::ShardDigest { key: key.into(), expected: info.sha256, found });
        }
        Ok(Self { id, bytes, token_bytes: *token_bytes, vocab_size: *vocab_size })
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Number of tokens.
    pub fn num_tokens(&self) -> u64 {
        (self.bytes.len() / self.token_bytes) as u64
    }

    /// How many sequences of `length` tokens there are: ⌊(tokens − 1) / length⌋.
    pub fn num_sequences(&self, length: u64) -> u64 {
        self.num_tokens().saturating_sub(1).checked_div(length).unwrap_or(0)
    }

    /// Sequence `j` of `length` tokens: the `length + 1` token ids from `j × length` on, the first `length` of them
    /// inputs and the last `length` targets. Every id is below the vocabulary's size.
    ///
    /// # Errors
    /// [`DataError::NoSequence`], [`DataError::TokenOutOfRange`].
    pub fn sequence(&self, j: u64, length: u64) -> Result<Vec<u32>, DataError> {
        let count = self.num_sequences(length);
        if j >= count {
            return Err(DataError::NoSequence { shard: self.id, sequence: j, length, count });
        }
        // j < ⌊(tokens − 1) / length⌋, so the range ends within the shard.
        let start = (j * length) as usize;
        let end = start + length as usize + 1;
        let bytes = &self.bytes[start * self.token_bytes..end * self.token_bytes];
        let tokens: Vec<u32> = match self.token_bytes {
            2 => bytes.chunks_exact(2).map(|t| u32::from(u16::from_le_bytes([t[0], t[1]]))).collect(),
            _ => bytes.chunks_exact(4).map(|t| u32::from_le_bytes([t[0], t[1], t[2], t[3]])).collect(),
        };
        if let Some(offset) = tokens.iter().position(|token| *token >= self.vocab_size) {
            let (position, token) = ((start + offset) as u64, tokens[offset]);
            return Err(DataError::TokenOutOfRange {
                shard: self.id,
                position,
                token,
                vocab_size: self.vocab_size,
            });
        }
        Ok(tokens)
    }
}
