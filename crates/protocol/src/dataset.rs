//! The index of a tokenised dataset: which shards there are, and which sequences lie in them.
//!
//! A dataset is a folder or a prefix in a bucket: `tokenizer.json`, `train-00000.bin`, …, `heldout-00000.bin`, …
//! and `dataset.json`, which is this index. A shard is a bare array of little-endian token ids, two bytes wide
//! when the vocabulary fits and four otherwise. Sequence `j` of length `T` is the `T + 1` tokens that start at
//! `j × T`: inputs and targets overlap by one token, sequences do not straddle shards.

use serde::{Deserialize, Serialize};

use crate::{Digest, Error};

/// The version of the index that this code writes and reads.
pub const DATASET_VERSION: u32 = 1;
/// The name of the index in a dataset's folder.
pub const DATASET_INDEX_FILE: &str = "dataset.json";
/// The name of the tokenizer in a dataset's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The longest index that is read, in bytes.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;
/// The most shards, of both splits together. About 130 bytes of index each.
pub const MAX_SHARDS: usize = 1 << 18;
/// The most tokens in a shard: 256 MiB at four bytes each, so that a shard fits in memory.
pub const MAX_SHARD_TOKENS: u64 = 1 << 26;
/// The largest vocabulary.
pub const MAX_VOCAB_SIZE: u32 = 1 << 20;

/// The largest count that every JSON reader holds exactly (2⁵³, RFC 8259 §6).
const MAX_COUNT: u64 = 1 << 53;

/// The two disjoint parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What miners train on.
    Train,
    /// What nobody trains on.
    Heldout,
}

impl Split {
    /// The split's name, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Heldout => "heldout",
        }
    }
}

/// Names one shard of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardId {
    /// The part that the shard belongs to.
    pub split: Split,
    /// Position in that part's list, from 0.
    pub number: u32,
}

impl ShardId {
    /// Shard `number` of the training part.
    pub fn train(number: u32) -> Self {
        Self { split: Split::Train, number }
    }

    /// Shard `number` of the held-out part.
    pub fn heldout(number: u32) -> Self {
        Self { split: Split::Heldout, number }
    }

    /// The shard's file name: `train-00000.bin`. Numbers past 99999 take the digits that they need.
    pub fn file_name(self) -> String {
        format!("{}-{:05}.bin", self.split.name(), self.number)
    }
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// One shard, as the index lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardInfo {
    /// File name beside the index; always [`ShardId::file_name`].
    pub file: String,
    /// Number of tokens.
    pub tokens: u64,
    /// Length of the file in bytes: `tokens × token_bytes`.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

impl ShardInfo {
    /// How many sequences of `sequence_length` tokens (and one target more) the shard holds: ⌊(tokens − 1) / T⌋.
    pub fn num_sequences(&self, sequence_length: u64) -> u64 {
        self.tokens.saturating_sub(1).checked_div(sequence_length).unwrap_or(0)
    }
}

/// The tokenizer that a dataset was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerInfo {
    /// File name beside the index; always [`TOKENIZER_FILE`].
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// The index of a dataset, `dataset.json`. It is written last: where it exists, everything it lists exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetIndex {
    /// [`DATASET_VERSION`].
    pub version: u32,
    /// The tokenizer, by hash.
    pub tokenizer: TokenizerInfo,
    /// Number of token ids; every token in a shard is smaller.
    pub vocab_size: u32,
    /// Width of a token in a shard, in bytes: 2 when `vocab_size` ≤ 65536, else 4.
    pub token_bytes: u32,
    /// The token id that follows every document.
    pub end_of_document: u32,
    /// Number of tokens in every shard but the last of each split.
    pub shard_tokens: u64,
    /// The training shards, in order.
    pub train: Vec<ShardInfo>,
    /// The held-out shards, in order. May be empty.
    pub heldout: Vec<ShardInfo>,
    /// Bytes of UTF-8 text behind `train`; the end-of-document tokens stand for none.
    pub train_text_bytes: u64,
    /// Bytes of UTF-8 text behind `heldout`.
    pub heldout_text_bytes: u64,
    /// Documents kept, of both splits.
    pub documents: u64,
    /// Of which held out.
    pub heldout_documents: u64,
    /// Documents dropped because their text had been seen already.
    pub duplicates_dropped: u64,
}

impl DatasetIndex {
    /// Reads and validates an index.
    ///
    /// # Errors
    /// [`Error::Dataset`] when the bytes are too long, are not such JSON, carry another version, or fail
    /// [`validate`](Self::validate).
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        /// Read first, so that a later version is refused by its number and not by a field that it adds.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(Error::dataset("index", format!("is longer than {MAX_INDEX_BYTES} bytes")));
        }
        let not_json = |error: serde_json::Error| Error::dataset("index", format!("cannot be read: {error}"));
        let Version { version } = serde_json::from_slice(bytes).map_err(not_json)?;
        check_version(version)?;
        let index: Self = serde_json::from_slice(bytes).map_err(not_json)?;
        index.validate()?;
        Ok(index)
    }

    /// The index as it is written: JSON, indented, fields in order, one newline at the end.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("a struct of integers and strings has a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Checks every bound and every relation between the fields, so that what follows may rely on them.
    ///
    /// # Errors
    /// [`Error::Dataset`] with the field that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        check_version(self.version)?;
        if self.tokenizer.file != TOKENIZER_FILE {
            return Err(Error::dataset("tokenizer.file", format!("is not `{TOKENIZER_FILE}`")));
        }
        if !(1..=MAX_VOCAB_SIZE).contains(&self.vocab_size) {
            return Err(Error::dataset(
                "vocab_size",
                format!("{} is not in 1..={MAX_VOCAB_SIZE}", self.vocab_size),
            ));
        }
        let token_bytes = Self::token_bytes_for(self.vocab_size);
        if self.token_bytes != token_bytes {
            return Err(Error::dataset("token_bytes", format!("is {}, not {token_bytes}", self.token_bytes)));
        }
        if self.end_of_document >= self.vocab_size {
            return Err(Error::dataset(
                "end_of_document",
                format!("{} is not a token id", self.end_of_document),
            ));
        }
        if !(2..=MAX_SHARD_TOKENS).contains(&self.shard_tokens) {
            let reason = format!("{} is not in 2..={MAX_SHARD_TOKENS}", self.shard_tokens);
            return Err(Error::dataset("shard_tokens", reason));
        }
        if self.train.is_empty() {
            return Err(Error::dataset("train", "lists no shard"));
        }
        if self.train.len().saturating_add(self.heldout.len()) > MAX_SHARDS {
            return Err(Error::dataset("train", format!("and heldout list more than {MAX_SHARDS} shards")));
        }
        self.validate_shards(Split::Train)?;
        self.validate_shards(Split::Heldout)?;
        self.validate_counts()
    }

    fn validate_shards(&self, split: Split) -> Result<(), Error> {
        let shards = self.shards(split);
        for (number, shard) in shards.iter().enumerate() {
            let field = |name: &str| format!("{}[{number}].{name}", split.name());
            let file = ShardId { split, number: number as u32 }.file_name();
            if shard.file != file {
                return Err(Error::dataset(field("file"), format!("is not `{file}`")));
            }
            let last = number + 1 == shards.len();
            let fits = if last {
                (1..=self.shard_tokens).contains(&shard.tokens)
            } else {
                shard.tokens == self.shard_tokens
            };
            if !fits {
                let reason = format!("{} does not fit shard_tokens = {}", shard.tokens, self.shard_tokens);
                return Err(Error::dataset(field("tokens"), reason));
            }
            let bytes = shard.tokens * u64::from(self.token_bytes);
            if shard.bytes != bytes {
                return Err(Error::dataset(field("bytes"), format!("is {}, not {bytes}", shard.bytes)));
            }
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), Error> {
        let counts = [
            ("train_text_bytes", self.train_text_bytes),
            ("heldout_text_bytes", self.heldout_text_bytes),
            ("documents", self.documents),
            ("heldout_documents", self.heldout_documents),
            ("duplicates_dropped", self.duplicates_dropped),
        ];
        for (field, count) in counts {
            if count > MAX_COUNT {
                return Err(Error::dataset(field, format!("{count} is more than 2^53")));
            }
        }
        if self.heldout_documents >= self.documents {
            return Err(Error::dataset("heldout_documents", "leaves no document to train on"));
        }
        let empty = self.heldout.is_empty();
        if (self.heldout_documents == 0) != empty || (self.heldout_text_bytes == 0) != empty {
            return Err(Error::dataset(
                "heldout",
                "does not agree with heldout_documents and heldout_text_bytes",
            ));
        }
        Ok(())
    }

    /// The width of a token in bytes for a vocabulary: 2 when every id fits in 16 bits, else 4.
    pub fn token_bytes_for(vocab_size: u32) -> u32 {
        if vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// The shards of a split, in order.
    pub fn shards(&self, split: Split) -> &[ShardInfo] {
        match split {
            Split::Train => &self.train,
            Split::Heldout => &self.heldout,
        }
    }

    /// One shard, or `None` when there is no such number.
    pub fn shard(&self, id: ShardId) -> Option<&ShardInfo> {
        self.shards(id.split).get(id.number as usize)
    }

    /// Number of tokens in a split.
    pub fn tokens(&self, split: Split) -> u64 {
        self.shards(split).iter().map(|shard| shard.tokens).sum()
    }

    /// Bytes of UTF-8 text behind a split.
    pub fn text_bytes(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.train_text_bytes,
            Split::Heldout => self.heldout_text_bytes,
        }
    }

    /// How many sequences of `sequence_length` tokens a shard holds; 0 when there is no such shard.
    pub fn num_sequences(&self, id: ShardId, sequence_length: u64) -> u64 {
        self.shard(id).map_or(0, |shard| shard.num_sequences(sequence_length))
    }

    /// How many sequences of `sequence_length` tokens a split holds.
    pub fn total_sequences(&self, split: Split, sequence_length: u64) -> u64 {
        self.shards(split).iter().map(|shard| shard.num_sequences(sequence_length)).sum()
    }

    /// Where sequence `n` of a split lies: its shard, and its number there. `None` past the last sequence.
    ///
    /// Constant time: every shard of a valid index but the last holds the same number of sequences.
    pub fn locate(&self, split: Split, n: u64, sequence_length: u64) -> Option<(ShardId, u64)> {
        let per_shard = self.shards(split).first()?.num_sequences(sequence_length);
        let number = u32::try_from(n.checked_div(per_shard)?).ok()?;
        let id = ShardId { split, number };
        let j = n % per_shard;
        (j < self.num_sequences(id, sequence_length)).then_some((id, j))
    }

    /// Bytes of text for each token of a split (end-of-document tokens counted). `None` when it has no token.
    pub fn bytes_per_token(&self, split: Split) -> Option<f64> {
        let tokens = self.tokens(split);
        (tokens > 0).then(|| self.text_bytes(split) as f64 / tokens as f64)
    }

    /// Turns a mean loss in nats per token into bits per byte of text: loss / (ln 2 × bytes per token).
    ///
    /// The figure does not depend on the tokenizer, so runs with different vocabularies compare.
    pub fn bits_per_byte(&self, split: Split, loss: f64) -> Option<f64> {
        let bytes = self.bytes_per_token(split).filter(|bytes| *bytes > 0.0)?;
        Some(loss / (std::f64::consts::LN_2 * bytes))
    }
}

fn check_version(version: u32) -> Result<(), Error> {
    if version == DATASET_VERSION {
        return Ok(());
    }
    Err(Error::dataset("version", format!("is {version}; this program reads {DATASET_VERSION}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: ShardId, tokens: u64) -> ShardInfo {
        ShardInfo { file: id.file_name(), tokens, bytes: tokens * 2, sha256: Digest::of(id.file_name()) }
    }

    fn index() -> DatasetIndex {
        DatasetIndex {
            version: DATASET_VERSION,
            tokenizer: TokenizerInfo { file: TOKENIZER_FILE.into(), sha256: Digest::of("t") },
            vocab_size: 4096,
            token_bytes: 2,
            end_of_document: 0,
            shard_tokens: 100,
            train: vec![
                shard(ShardId::train(0), 100),
                shard(ShardId::train(1), 100),
                shard(ShardId::train(2), 33),
            ],
            heldout: vec![shard(ShardId::heldout(0), 40)],
            train_text_bytes: 932,
            heldout_text_bytes: 160,
            documents: 12,
            heldout_documents: 2,
            duplicates_dropped: 1,
        }
    }

    fn refusal(edit: impl FnOnce(&mut DatasetIndex)) -> String {
        let mut bad = index();
        edit(&mut bad);
        DatasetIndex::from_json(&bad.to_json()).unwrap_err().to_string()
    }

    #[test]
    fn the_index_survives_its_json() {
        assert_eq!(DatasetIndex::from_json(&index().to_json()).unwrap(), index());
    }

    #[test]
    fn sequences_take_one_token_more_than_their_length() {
        let index = index();
        assert_eq!(index.num_sequences(ShardId::train(0), 99), 1);
        assert_eq!(index.num_sequences(ShardId::train(0), 100), 0);
        assert_eq!(index.num_sequences(ShardId::train(0), 33), 3);
        assert_eq!(index.num_sequences(ShardId::train(2), 33), 0);
        assert_eq!(index.num_sequences(ShardId::train(3), 33), 0);
        assert_eq!(index.num_sequences(ShardId::train(0), 0), 0);
    }

    #[test]
    fn locating_walks_every_sequence_once() {
        let index = index();
        for length in [1, 7, 16, 32, 33, 99] {
            let total = index.total_sequences(Split::Train, length);
            let walked: Vec<_> = (0..total).map(|n| index.locate(Split::Train, n, length).unwrap()).collect();
            let listed: Vec<_> = (0..3)
                .map(ShardId::train)
                .flat_map(|id| (0..index.num_sequences(id, length)).map(move |j| (id, j)))
                .collect();
            assert_eq!(walked, listed, "T = {length}");
            assert_eq!(index.locate(Split::Train, total, length), None);
        }
        assert_eq!(index.locate(Split::Train, 0, 100), None);
        assert_eq!(index.locate(Split::Train, 0, 0), None);
        assert_eq!(index.locate(Split::Train, u64::MAX, 1), None);
    }

    #[test]
    fn bits_per_byte_follows_the_text() {
        let index = index();
        assert_eq!(index.bytes_per_token(Split::Heldout), Some(4.0));
        let bits = index.bits_per_byte(Split::Heldout, 4.0 * std::f64::consts::LN_2).unwrap();
        assert!((bits - 1.0).abs() < 1e-12);
    }

    #[test]
    fn hostile_indexes_are_refused_by_field() {
        assert!(refusal(|i| i.version = 2).contains("version"));
        assert!(refusal(|i| i.tokenizer.file = "../x".into()).contains("tokenizer.file"));
        assert!(refusal(|i| i.vocab_size = u32::MAX).contains("vocab_size"));
        assert!(refusal(|i| i.vocab_size = 0).contains("vocab_size"));
        assert!(refusal(|i| i.token_bytes = 4).contains("token_bytes"));
        assert!(refusal(|i| i.end_of_document = 4096).contains("end_of_document"));
        assert!(refusal(|i| i.shard_tokens = u64::MAX).contains("shard_tokens"));
        assert!(refusal(|i| i.train.clear()).contains("train"));
        assert!(refusal(|i| i.train[0].file = "../../x".into()).contains("train[0].file"));
        assert!(refusal(|i| i.train[1].tokens = 99).contains("train[1].tokens"));
        assert!(refusal(|i| i.train[2].tokens = 0).contains("train[2].tokens"));
        assert!(refusal(|i| i.heldout[0].bytes = u64::MAX).contains("heldout[0].bytes"));
        assert!(refusal(|i| i.train_text_bytes = u64::MAX).contains("train_text_bytes"));
        assert!(refusal(|i| i.heldout_documents = 12).contains("heldout_documents"));
        assert!(refusal(|i| i.heldout.clear()).contains("heldout"));
    }

    #[test]
    fn a_later_version_is_refused_by_its_number() {
        let error = DatasetIndex::from_json(br#"{"version": 7, "new": true}"#).unwrap_err().to_string();
        assert!(error.contains("version is 7"), "{error}");
        assert!(DatasetIndex::from_json(b"{").is_err());
        assert!(DatasetIndex::from_json(b"[1]").is_err());
    }
}
