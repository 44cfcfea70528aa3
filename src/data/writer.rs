//! Writing a dataset: tokens into shards, shards into a sink, the index last.

use std::collections::HashMap;

use brigade_protocol::{
    DATASET_INDEX_FILE, DatasetIndex, Digest, MAX_SHARDS, ShardId, ShardInfo, Split, TOKENIZER_FILE,
};
use bytes::Bytes;

use super::DataError;
use super::sink::Sink;

/// A sink, and the dataset that lies there already.
///
/// The files of a dataset keep their names, so writing over another dataset would for a while leave its index
/// above our shards. That is refused, or, with `replace`, the old index goes first.
#[derive(Debug)]
pub(super) struct Output<'s> {
    sink: &'s dyn Sink,
    /// Digests of the files that are there, by the index.
    present: HashMap<String, Digest>,
    /// Whether an index is there.
    occupied: bool,
    replace: bool,
}

impl<'s> Output<'s> {
    /// Looks at what is there.
    pub(super) fn open(sink: &'s dyn Sink, replace: bool) -> Result<Self, DataError> {
        let mut present = HashMap::new();
        let index = sink.read(DATASET_INDEX_FILE)?;
        if let Some(bytes) = &index {
            present.insert(DATASET_INDEX_FILE.to_owned(), Digest::of(bytes));
            if let Ok(index) = DatasetIndex::from_json(bytes) {
                present.insert(TOKENIZER_FILE.to_owned(), index.tokenizer.sha256);
                let shards = index.train.into_iter().chain(index.heldout);
                present.extend(shards.map(|shard| (shard.file, shard.sha256)));
            }
        }
        Ok(Self { sink, present, occupied: index.is_some(), replace })
    }

    /// Writes a file of the dataset, and gives its hash.
    fn write(&mut self, name: &str, bytes: Vec<u8>) -> Result<Digest, DataError> {
        let digest = Digest::of(&bytes);
        if self.occupied && self.present.get(name) != Some(&digest) {
            if !self.replace {
                return Err(DataError::Occupied { output: self.sink.to_string(), file: name.to_owned() });
            }
            self.sink.remove(DATASET_INDEX_FILE)?;
            self.occupied = false;
        }
        // Also when it should be there: a rerun repairs what was lost.
        self.sink.write(name, Bytes::from(bytes))?;
        Ok(digest)
    }

    /// Writes the tokenizer.
    pub(super) fn tokenizer(&mut self, json: &[u8]) -> Result<Digest, DataError> {
        self.write(TOKENIZER_FILE, json.to_vec())
    }

    /// Writes the index, after everything that it lists is there.
    pub(super) fn finish(mut self, index: &DatasetIndex) -> Result<(), DataError> {
        index.validate()?;
        self.sink.flush()?;
        self.write(DATASET_INDEX_FILE, index.to_json())?;
        self.sink.flush()
    }
}

/// Packs one split's tokens into shards.
#[derive(Debug)]
pub(super) struct ShardWriter {
    split: Split,
    shard_tokens: u64,
    token_bytes: u32,
    buffer: Vec<u8>,
    shards: Vec<ShardInfo>,
    pub(super) text_bytes: u64,
    pub(super) documents: u64,
}

impl ShardWriter {
    /// `shard_tokens` tokens a shard, `token_bytes` (2 or 4) bytes a token.
    pub(super) fn new(split: Split, shard_tokens: u64, token_bytes: u32) -> Self {
        let (buffer, shards) = (Vec::new(), Vec::new());
        Self { split, shard_tokens, token_bytes, buffer, shards, text_bytes: 0, documents: 0 }
    }

    /// Appends the tokens of one document of `text_bytes` bytes, and `end_of_document`.
    pub(super) fn document(
        &mut self,
        tokens: &[u32],
        end_of_document: u32,
        text_bytes: u64,
        output: &mut Output<'_>,
    ) -> Result<(), DataError> {
        let full = (self.shard_tokens * u64::from(self.token_bytes)) as usize;
        for token in tokens.iter().chain(std::iter::once(&end_of_document)) {
            self.buffer.extend_from_slice(&token.to_le_bytes()[..self.token_bytes as usize]);
            if self.buffer.len() == full {
                self.close_shard(output)?;
            }
        }
        self.text_bytes += text_bytes;
        self.documents += 1;
        Ok(())
    }

    fn close_shard(&mut self, output: &mut Output<'_>) -> Result<(), DataError> {
        if self.shards.len() == MAX_SHARDS {
            return Err(DataError::TooManyShards { limit: MAX_SHARDS });
        }
        let file = ShardId { split: self.split, number: self.shards.len() as u32 }.file_name();
        let bytes = std::mem::take(&mut self.buffer);
        let (length, tokens) = (bytes.len() as u64, bytes.len() as u64 / u64::from(self.token_bytes));
        let sha256 = output.write(&file, bytes)?;
        self.shards.push(ShardInfo { file, tokens, bytes: length, sha256 });
        Ok(())
    }

    /// Closes the last shard and gives the list of all.
    pub(super) fn finish(&mut self, output: &mut Output<'_>) -> Result<Vec<ShardInfo>, DataError> {
        if !self.buffer.is_empty() {
            self.close_shard(output)?;
        }
        Ok(std::mem::take(&mut self.shards))
    }
}
