//! The tokenizer: loaded from a `tokenizer.json`, or trained on a sample of the corpus.

use std::path::Path;

use brigade_protocol::{Digest, MAX_VOCAB_SIZE};
use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::DataError;
use super::words::{Splitter, WordCache};

/// Bytes of text that a tokenizer is trained on.
pub(super) const SAMPLE_BYTES: u64 = 16 << 20;
/// The smallest vocabulary that can be trained: the 256 bytes and the end-of-document token.
pub const MIN_TRAINED_VOCAB: u32 = 257;
/// The end-of-document token of a trained tokenizer. Its id is 0.
pub const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// Names under which the usual tokenizers know the end of a document, the more specific first.
const END_NAMES: &[&str] =
    &[END_OF_DOCUMENT, "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|im_end|>", "<eos>", "</s>", "[EOS]"];
/// The longest `tokenizer.json` that is read. The largest in use, with 256 thousand tokens, take a quarter of it.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// A tokenizer that is ready to encode documents.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    /// For tokenizers that encode word by word as GPT-2 does: four times as fast.
    words: Option<WordCache>,
    json: Vec<u8>,
    vocab_size: u32,
    end_of_document: u32,
}

impl Encoder {
    /// Loads a `tokenizer.json`. `end_of_document` names the token that follows each document; without it the usual
    /// names are tried.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`], [`DataError::Io`].
    pub fn load(path: &Path, end_of_document: Option<&str>) -> Result<Self, DataError> {
        Self::load_with(path, end_of_document.map_or(End::Usual, End::Named))
    }

    /// Loads a `tokenizer.json` of which the token that ends a document is known by its number.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with_end(path: &Path, end_of_document: u32) -> Result<Self, DataError> {
        Self::load_with(path, End::Number(end_of_document))
    }

    fn load_with(path: &Path, end: End<'_>) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::Tokenizer { path: path.to_owned(), reason };
        let length = std::fs::metadata(path).map_err(|error| DataError::io(path, error))?.len();
        if length > MAX_TOKENIZER_BYTES {
            return Err(wrong(format!("longer than {} MiB", MAX_TOKENIZER_BYTES >> 20)));
        }
        let json = std::fs::read(path).map_err(|error| DataError::io(path, error))?;
        Self::from_json(json, end).map_err(wrong)
    }

    /// Trains byte-level BPE (GPT-2, as in Radford et al. 2019 §2.2) with `vocab_size` tokens on `sample`. A sample too poor for
    /// so many merges yields fewer tokens.
    ///
    /// The same sample gives the same bytes.
    ///
    /// # Errors
    /// [`DataError::Setting`] for a vocabulary outside the bounds, [`DataError::Train`].
    pub fn train(vocab_size: u32, sample: Vec<String>) -> Result<Self, DataError> {
        Self::check_vocab(vocab_size)?;
        let json = train_json(vocab_size, &sample)
            .map_err(|error| DataError::Train { reason: error.to_string() })?;
        Self::from_json(json.into_bytes(), End::Named(END_OF_DOCUMENT))
            .map_err(|reason| DataError::Train { reason })
    }

    /// Whether a vocabulary of that size can be trained.
    pub(super) fn check_vocab(vocab_size: u32) -> Result<(), DataError> {
        if (MIN_TRAINED_VOCAB..=MAX_VOCAB_SIZE).contains(&vocab_size) {
            return Ok(());
        }
        let reason = format!("{vocab_size} is not in {MIN_TRAINED_VOCAB}..={MAX_VOCAB_SIZE}");
        Err(DataError::setting("--train-bpe", reason))
    }

    fn from_json(json: Vec<u8>, end: End<'_>) -> Result<Self, String> {
        let mut tokenizer =
            Tokenizer::from_bytes(&json).map_err(|error| error.to_string().replace('\n', " "))?;
        // A file may carry the truncation and padding of whoever saved it; documents are encoded whole.
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?.with_padding(None);
        // A text that spells a special token is text: it must not end its document.
        tokenizer.set_encode_special_tokens(true);
        let vocab_size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id.saturating_add(1));
        if !(1..=MAX_VOCAB_SIZE).contains(&vocab_size) {
            return Err(format!("{vocab_size} token ids, not 1..={MAX_VOCAB_SIZE}"));
        }
        let words = word_cache(&json)?;
        let (names, id) = match &end {
            End::Usual => (END_NAMES, None),
            End::Named(name) => (std::slice::from_ref(name), None),
            End::Number(id) => (&[][..], Some(*id)),
        };
        let id = id.or_else(|| names.iter().find_map(|name| tokenizer.token_to_id(name)));
        let Some(end_of_document) = id else {
            return Err(format!("has no token {}: name one with --end-of-document", names.join(" or ")));
        };
        Ok(Self { tokenizer, words, json, vocab_size, end_of_document })
    }

    /// The `tokenizer.json`, byte for byte as it was loaded or trained.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// SHA-256 of [`json`](Self::json).
    pub fn sha256(&self) -> Digest {
        Digest::of(&self.json)
    }

    /// Whether `json`, another `tokenizer.json`, has the same tokens under the same numbers.
    ///
    /// # Errors
    /// [`DataError::Encode`] when it is no tokenizer.
    pub fn has_tokens_of(&self, json: &[u8]) -> Result<bool, DataError> {
        let other = Tokenizer::from_bytes(json).map_err(encode_error)?;
        Ok(other.get_vocab(true) == self.tokenizer.get_vocab(true))
    }

    /// Number of token ids: one more than the largest.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The token id that follows each document.
    pub fn end_of_document(&self) -> u32 {
        self.end_of_document
    }

    /// Encodes documents on all cores, without special tokens of the tokenizer's own.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn encode(&self, documents: &[String]) -> Result<Vec<Vec<u32>>, DataError> {
        let whole =
            |text: &str| self.tokenizer.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec());
        let encode = |text: &String| match &self.words {
            Some(words) => words.encode(text, whole),
            None => whole(text),
        };
        let encoded: tokenizers::Result<_> = documents.par_iter().map(encode).collect();
        encoded.map_err(encode_error)
    }

    /// Encodes how a text begins, for a model to go on: special tokens that are spelt in it count, and those that the
    /// tokenizer begins a text with are added.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut tokenizer = self.tokenizer.clone();
        tokenizer.set_encode_special_tokens(false);
        let encoding = tokenizer.encode_fast(text, true);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(encode_error)
    }

    /// Text from tokens that come one by one: each call gives what is certain after one more, which is nothing within a
    /// character. Special tokens are left out.
    pub fn stream(&self) -> impl FnMut(u32) -> Result<Option<String>, DataError> + '_ {
        let mut stream = self.tokenizer.decode_stream(true);
        move |token| stream.step(token).map_err(encode_error)
    }

    /// The text of `tokens`, special tokens included.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.tokenizer.decode(tokens, false).map_err(encode_error)
    }
}

/// By what the token that ends a document is known.
#[derive(Clone, Copy)]
enum End<'a> {
    /// One of its usual names.
    Usual,
    Named(&'a str),
    Number(u32),
}

// By value, as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn encode_error(error: tokenizers::Error) -> DataError {
    DataError::Encode { reason: error.to_string() }
}

/// Trains on word counts: what [`Tokenizer::train`] does, without its bookkeeping of where each word came from.
fn train_json(vocab_size: u32, sample: &[String]) -> tokenizers::Result<String> {
    let counts = Splitter::new()?.count(sample)?;
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size as usize)
        .special_tokens(vec![AddedToken::from(END_OF_DOCUMENT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut model = BPE::default();
    let counts = counts.into_iter().map(|(word, n)| (word.into(), n)).collect();
    let special = trainer.do_train(&counts, &mut model)?;
    let mut tokenizer = Tokenizer::new(model);
    let byte_level = ByteLevel::default().add_prefix_space(false);
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    tokenizer.add_special_tokens(&special);
    tokenizer.to_string(false)
}

/// A word cache, when the tokenizer splits as GPT-2 does and does nothing else that could tell words in a text from
/// words alone: no normaliser, no added tokens but special ones (which text does not match).
fn word_cache(json: &[u8]) -> Result<Option<WordCache>, String> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if value["model"]["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0) {
        return Err("drops merges by chance: set `dropout` to null".into());
    }
    let split = &value["pre_tokenizer"];
    let splits =
        split["type"] == "ByteLevel" && split["add_prefix_space"] == false && split["use_regex"] != false;
    let added = value["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let plain = value["model"]["type"] == "BPE"
        && value["normalizer"].is_null()
        && added.iter().all(|token| token["special"] == true);
    if !(splits && plain) {
        return Ok(None);
    }
    Splitter::new().map(|splitter| Some(WordCache::new(splitter))).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Vec<String> {
        (0..400)
            .map(|n| format!("the quick brown fox {n} jumps over the lazy dog; let x_{n} = {};\n", n * n))
            .collect()
    }

    #[test]
    fn training_is_deterministic_and_the_end_is_token_zero() {
        let encoder = Encoder::train(400, sample()).unwrap();
        assert_eq!((encoder.vocab_size(), encoder.end_of_document()), (400, 0));
        for _ in 0..4 {
            assert_eq!(Encoder::train(400, sample()).unwrap().sha256(), encoder.sha256());
        }
    }

    #[test]
    fn training_on_counts_is_training() {
        let mut trainer: tokenizers::models::TrainerWrapper = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(500)
            .special_tokens(vec![AddedToken::from(END_OF_DOCUMENT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build()
            .into();
        let mut tokenizer = Tokenizer::new(BPE::default());
        let byte_level = ByteLevel::default().add_prefix_space(false);
        tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        tokenizer.train(&mut trainer, sample().into_iter()).unwrap();
        let ours = Encoder::train(500, sample()).unwrap();
        assert_eq!(String::from_utf8(ours.json).unwrap(), tokenizer.to_string(false).unwrap());
    }

    #[test]
    fn words_taken_one_by_one_give_the_tokens_of_the_text() {
        let encoder = Encoder::train(500, sample()).unwrap();
        assert!(encoder.words.is_some());
        let mut texts = sample();
        texts.extend([
            "it's\r\n\t  x  ".into(),
            "naïve 日本語 😀 \u{a0} 3½".into(),
            "<|endoftext|> <|endoftext|>".into(),
            "long".repeat(5000),
        ]);
        for (text, tokens) in texts.iter().zip(encoder.encode(&texts).unwrap()) {
            let whole = encoder.tokenizer.encode(text.as_str(), false).unwrap();
            assert_eq!(tokens, whole.get_ids(), "{text}");
        }
    }

    #[test]
    fn tokenizers_of_another_kind_encode_whole_texts() {
        let trained = Encoder::train(300, sample()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(trained.json()).unwrap();
        let edited = |edit: &dyn Fn(&mut serde_json::Value)| {
            let mut value = value.clone();
            edit(&mut value);
            Encoder::from_json(value.to_string().into_bytes(), End::Named(END_OF_DOCUMENT))
        };
        assert!(edited(&|v| v["pre_tokenizer"]["trim_offsets"] = false.into()).unwrap().words.is_some());
        let spaced = edited(&|v| v["pre_tokenizer"]["add_prefix_space"] = true.into()).unwrap();
        assert!(spaced.words.is_none());
        let texts = ["fox the".to_owned()];
        assert_eq!(spaced.encode(&texts).unwrap(), trained.encode(&[" fox the".to_owned()]).unwrap());
        assert!(
            edited(&|v| v["normalizer"] = serde_json::json!({"type": "Lowercase"})).unwrap().words.is_none()
        );
        assert!(edited(&|v| v["added_tokens"][0]["special"] = false.into()).unwrap().words.is_none());
        assert!(edited(&|v| v["model"]["dropout"] = 0.1.into()).unwrap_err().contains("by chance"));
    }

    #[test]
    fn every_text_comes_back_and_none_forges_an_end() {
        let encoder = Encoder::train(300, sample()).unwrap();
        let texts = ["", " the fox", "naïve 😀\0\u{7f}", "a<|endoftext|>b"].map(str::to_owned);
        for (text, tokens) in texts.iter().zip(encoder.encode(&texts).unwrap()) {
            assert!(tokens.iter().all(|t| *t != 0 && *t < 300), "{text}");
            assert_eq!(&encoder.decode(&tokens).unwrap(), text);
        }
    }

    #[test]
    fn a_loaded_tokenizer_keeps_its_bytes_and_drops_its_truncation() {
        let trained = Encoder::train(300, sample()).unwrap();
        let mut value: serde_json::Value = serde_json::from_slice(trained.json()).unwrap();
        value["truncation"] =
            serde_json::json!({"direction":"Right","max_length":3,"strategy":"LongestFirst","stride":0});
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
        let loaded = Encoder::load(&path, None).unwrap();
        assert_eq!(loaded.json(), serde_json::to_vec(&value).unwrap());
        assert_eq!(loaded.encode(&sample()).unwrap(), trained.encode(&sample()).unwrap());
    }

    #[test]
    fn unusable_tokenizers_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "{\"not\": \"a tokenizer\"}").unwrap();
        assert!(matches!(Encoder::load(&path, None), Err(DataError::Tokenizer { .. })));
        std::fs::write(&path, Encoder::train(300, sample()).unwrap().json()).unwrap();
        let error = Encoder::load(&path, Some("<end>")).unwrap_err().to_string();
        assert!(error.ends_with("has no token <end>: name one with --end-of-document"), "{error}");
        assert!(matches!(Encoder::load(Path::new("nowhere"), None), Err(DataError::Io { .. })));
        let error = Encoder::train(100, sample()).unwrap_err().to_string();
        assert_eq!(error, "--train-bpe 100 is not in 257..=1048576");
    }
}
