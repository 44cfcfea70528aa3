//! GPT-2's split of text into words, and what it makes cheap: text repeats its words, so each need be encoded once.
//!
//! Byte-level BPE merges within a word only, so the tokens of a text are those of its words side by side.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use tokenizers::tokenizer::pattern::Pattern as _;
use tokenizers::utils::SysRegex;

/// Radford et al. 2019, `encoder.py`: a contraction, a run of letters, of digits or of others (each with the blank
/// before it), or blanks. A match is a match also when it stands alone, which is why words can be taken one by one.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Longer words are rarely met twice.
const MAX_CACHED_WORD: usize = 64;
/// Words that a thread remembers: some 25 MB. The frequent ones come early, so a full cache takes no more.
const MAX_CACHED_WORDS: usize = 1 << 18;

/// Splits text into words.
#[derive(Debug)]
pub(super) struct Splitter {
    pattern: SysRegex,
}

impl Splitter {
    pub(super) fn new() -> tokenizers::Result<Self> {
        Ok(Self { pattern: SysRegex::new(PATTERN).map_err(|error| error.to_string())? })
    }

    /// The words of `text`: not empty, and together all of it.
    fn words<'t>(&self, text: &'t str) -> tokenizers::Result<impl Iterator<Item = &'t str> + use<'t>> {
        let matches = (&self.pattern).find_matches(text)?;
        // An empty text is told as one empty match.
        Ok(matches.into_iter().map(|((start, end), _)| &text[start..end]).filter(|word| !word.is_empty()))
    }

    /// How often each word occurs in `texts`, on all cores. Words are in the alphabet of byte-level BPE.
    pub(super) fn count(&self, texts: &[String]) -> tokenizers::Result<HashMap<String, u64>> {
        let count = |text: &String| -> tokenizers::Result<HashMap<String, u64>> {
            let mut counts = HashMap::<&str, u64>::new();
            self.words(text)?.for_each(|word| *counts.entry(word).or_default() += 1);
            Ok(counts.into_iter().map(|(word, n)| (word.to_owned(), n)).collect())
        };
        let add = |mut a: HashMap<String, u64>, mut b: HashMap<String, u64>| {
            if a.len() < b.len() {
                std::mem::swap(&mut a, &mut b);
            }
            b.into_iter().for_each(|(word, n)| *a.entry(word).or_default() += n);
            Ok(a)
        };
        let counts = texts.par_iter().map(count).try_reduce(HashMap::new, add)?;
        let alphabet = byte_alphabet();
        let spell = |word: &str| word.bytes().map(|byte| alphabet[usize::from(byte)]).collect();
        Ok(counts.iter().map(|(word, n)| (spell(word), *n)).collect())
    }
}

/// The character that stands for each byte: itself when it is printable Latin-1, else the next one from U+0100 on
/// (`bytes_to_unicode` of GPT-2's `encoder.py`).
fn byte_alphabet() -> [char; 256] {
    let mut spare = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(printable),
        _ => spare.next().unwrap_or(char::MAX),
    })
}

/// The tokens of words.
type Known = HashMap<Box<str>, Box<[u32]>>;

/// The tokens of the words that have been met, for each thread of the pool.
#[derive(Debug)]
pub(super) struct WordCache {
    splitter: Splitter,
    /// A thread takes its own, so the locks are never waited for.
    known: Vec<Mutex<Known>>,
}

impl WordCache {
    pub(super) fn new(splitter: Splitter) -> Self {
        let known = (0..rayon::current_num_threads().max(1)).map(|_| Mutex::default()).collect();
        Self { splitter, known }
    }

    /// The tokens of a text, given how to encode a word.
    ///
    /// # Errors
    /// Those of `encode`. It must not use the thread pool.
    pub(super) fn encode(
        &self,
        text: &str,
        encode: impl Fn(&str) -> tokenizers::Result<Vec<u32>>,
    ) -> tokenizers::Result<Vec<u32>> {
        let place = rayon::current_thread_index().unwrap_or(0) % self.known.len();
        let mut known = self.known[place].lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = Vec::with_capacity(text.len() / 3);
        for word in self.splitter.words(text)? {
            if let Some(found) = known.get(word) {
                tokens.extend_from_slice(found);
                continue;
            }
            let found = encode(word)?;
            tokens.extend_from_slice(&found);
            if word.len() <= MAX_CACHED_WORD && known.len() < MAX_CACHED_WORDS {
                known.insert(word.into(), found.into());
            }
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    const TEXTS: &[&str] = &[
        "fn main() {\n    println!(\"it's {}\", 'x');\r\n}\n\n\n",
        "We'll see: they've 12 apples, naïve café, 3½ ² Ⅻ.  Two  spaces \t tab",
        "日本語 текст 😀😀 \u{a0}nbsp \u{2028} '''s 're 'LL _x_y\u{0301}",
        "   ",
        "",
        "\0\u{7f}\u{ad}",
    ];

    #[test]
    fn words_are_those_of_the_byte_level_pre_tokenizer() {
        let splitter = Splitter::new().unwrap();
        for text in TEXTS {
            let mut theirs = PreTokenizedString::from(*text);
            ByteLevel::default().add_prefix_space(false).pre_tokenize(&mut theirs).unwrap();
            let theirs: Vec<String> = theirs
                .get_splits(OffsetReferential::Original, OffsetType::Byte)
                .into_iter()
                .map(|(word, _, _)| word.to_owned())
                .collect();
            let alphabet = byte_alphabet();
            let spell = |word: &str| word.bytes().map(|b| alphabet[usize::from(b)]).collect::<String>();
            let ours: Vec<String> = splitter.words(text).unwrap().map(spell).collect();
            assert_eq!(ours, theirs, "{text:?}");
        }
    }

    #[test]
    fn a_word_alone_is_one_word() {
        let splitter = Splitter::new().unwrap();
        for word in TEXTS.iter().flat_map(|text| splitter.words(text).unwrap()) {
            assert_eq!(splitter.words(word).unwrap().collect::<Vec<_>>(), [word]);
        }
    }

    #[test]
    fn the_alphabet_is_theirs() {
        let ours: HashSet<char> = byte_alphabet().into_iter().collect();
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
        assert_eq!((byte_alphabet()[0], byte_alphabet()[usize::from(b' ')]), ('Ā', 'Ġ'));
    }

    #[test]
    fn counts_add_up_over_texts() {
        let texts = ["a b b", "b a\n", " b"].map(str::to_owned);
        let counts = Splitter::new().unwrap().count(&texts).unwrap();
        let expected = [("a", 1), ("Ġb", 3), ("b", 1), ("Ġa", 1), ("Ċ", 1)];
        assert_eq!(counts, expected.map(|(word, n)| (word.to_owned(), n)).into());
    }
}
