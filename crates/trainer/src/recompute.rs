//! Which blocks trade arithmetic for memory.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// The blocks that keep only their input and are run again in their backward pass (arXiv 1604.06174): less memory for up to
/// a third more arithmetic. The result is the same.
///
/// In a file `"none"`, `"all"`, or the number n of [`Every`](Self::Every).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub enum Recompute {
    /// No block.
    #[default]
    None,
    /// Every n-th block, counted from the first one: when the backward pass comes to it, most of what the others had kept is
    /// free again.
    Every(NonZeroUsize),
    /// Every block.
    All,
}

impl Recompute {
    /// Whether the block `layer`, counted from 0, is run again.
    pub(crate) fn is_for(self, layer: usize) -> bool {
        match self {
            Self::None => false,
            Self::Every(n) => layer.is_multiple_of(n.get()),
            Self::All => true,
        }
    }
}

/// How it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "recompute must be \"none\", \"all\", or a number of at least 1")]
enum Form {
    Number(usize),
    Word(String),
}

impl From<Recompute> for Form {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::None => Self::Word("none".into()),
            Recompute::Every(n) => Self::Number(n.get()),
            Recompute::All => Self::Word("all".into()),
        }
    }
}

impl TryFrom<Form> for Recompute {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        let must = "must be \"none\", \"all\", or a number of at least 1";
        match form {
            Form::Number(n) => NonZeroUsize::new(n).map(Self::Every).ok_or_else(|| format!("{n} {must}")),
            Form::Word(word) => match word.as_str() {
                "none" => Ok(Self::None),
                "all" => Ok(Self::All),
                _ => Err(format!("`{word}` {must}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_says_none_all_or_a_number() {
        let three = NonZeroUsize::new(3).unwrap();
        for (text, value) in
            [("\"none\"", Recompute::None), ("3", Recompute::Every(three)), ("\"all\"", Recompute::All)]
        {
            assert_eq!(serde_json::from_str::<Recompute>(text).unwrap(), value);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        for text in ["0", "\"some\"", "-1", "1.5", "true", "null"] {
            assert!(serde_json::from_str::<Recompute>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_nth_block_is_counted_from_the_first() {
        let blocks =
            |recompute: Recompute| (0..7).filter(|&layer| recompute.is_for(layer)).collect::<Vec<_>>();
        let every = |n| Recompute::Every(NonZeroUsize::new(n).unwrap());
        assert_eq!(blocks(every(3)), [0, 3, 6]);
        assert_eq!(blocks(every(100)), [0]);
        assert_eq!(blocks(every(1)), blocks(Recompute::All));
        assert!(blocks(Recompute::None).is_empty());
    }
}
