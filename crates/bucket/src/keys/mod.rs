//! Every key that Brigade writes. Nothing else in the workspace spells one.
//!
//! A key has one spelling: what parses displays back identically. Windows and epochs have ten digits, so that lists come
//! in their order; peers and digests have 64 lower-case hexadecimal digits.

mod checkpoint;
mod data;
mod peer;
mod run;

use std::fmt;
use std::str::FromStr;

pub use checkpoint::CheckpointFile;
pub use data::DataFile;
pub use peer::{PeerFile, PeerKey};
pub use run::RunKey;

use crate::BucketError;
use crate::cause::one_line;

/// Under this prefix a bucket's owner may write anything to test the bucket; it is empty otherwise.
pub const PROBE: &str = "probe";

/// Any key of any bucket of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Key {
    /// A key of the run's bucket.
    Run(RunKey),
    /// A key of a miner's or a validator's bucket.
    Peer(PeerKey),
    /// `probe/{token}`: left behind only by a probe that was killed.
    Probe(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(key) => key.fmt(f),
            Self::Peer(key) => key.fmt(f),
            Self::Probe(token) => write!(f, "{PROBE}/{token}"),
        }
    }
}

impl FromStr for Key {
    type Err = BucketError;

    fn from_str(text: &str) -> Result<Self, BucketError> {
        if let Some(token) = text.strip_prefix(PROBE).and_then(|rest| rest.strip_prefix('/')) {
            let plain = (1..=64).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_alphanumeric());
            return plain.then(|| Self::Probe(token.to_owned())).ok_or_else(|| unknown(text));
        }
        text.parse().map(Self::Run).or_else(|_| text.parse().map(Self::Peer))
    }
}

/// Parses by `read`, and refuses whatever is not spelled as the result displays.
fn strictly<K: fmt::Display>(text: &str, read: impl FnOnce(&[&str]) -> Option<K>) -> Result<K, BucketError> {
    // The longest key has 5 parts and under 200 bytes.
    if text.len() > 200 {
        return Err(unknown(text));
    }
    let parts: Vec<&str> = text.split('/').collect();
    read(&parts).filter(|key| key.to_string() == text).ok_or_else(|| unknown(text))
}

fn unknown(text: &str) -> BucketError {
    BucketError::UnknownKey { key: one_line(text, 80) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use brigade_protocol::{Digest, PeerId, ShardId};
    use proptest::prelude::*;

    fn checkpoint_file() -> impl Strategy<Value = CheckpointFile> {
        prop_oneof![
            prop::sample::select(CheckpointFile::FIXED.to_vec()),
            (1..=100_000_u32, 0..100_000_u32)
                .prop_map(|(part, more)| CheckpointFile::Part { part, of: part + more }),
        ]
    }

    fn run_key() -> impl Strategy<Value = RunKey> {
        let (peer, sha) = (any::<[u8; 32]>().prop_map(PeerId), any::<[u8; 32]>().prop_map(Digest));
        prop_oneof![
            Just(RunKey::Manifest),
            Just(RunKey::GcBoundary),
            any::<u64>().prop_map(RunKey::Fence),
            peer.clone().prop_map(RunKey::Lobby),
            sha.prop_map(RunKey::Roster),
            any::<u64>().prop_map(RunKey::Open),
            any::<u64>().prop_map(RunKey::Cutoff),
            any::<u64>().prop_map(RunKey::Verdict),
            any::<u64>().prop_map(RunKey::Delta),
            any::<u64>().prop_map(RunKey::Close),
            (any::<u64>(), peer.clone()).prop_map(|(window, peer)| RunKey::Receipt { window, peer }),
            (any::<u64>(), peer).prop_map(|(window, peer)| RunKey::Update { window, peer }),
            (any::<u64>(), checkpoint_file()).prop_map(|(window, file)| RunKey::Checkpoint { window, file }),
            prop_oneof![
                Just(DataFile::Index),
                Just(DataFile::Tokenizer),
                any::<u32>().prop_map(|n| DataFile::Shard(ShardId::train(n))),
                any::<u32>().prop_map(|n| DataFile::Shard(ShardId::heldout(n))),
            ]
            .prop_map(RunKey::Data),
        ]
    }

    fn peer_key() -> impl Strategy<Value = PeerKey> {
        let file = prop::sample::select(PeerFile::ALL.to_vec());
        (any::<[u8; 32]>(), any::<u64>(), file).prop_map(|(run, window, file)| PeerKey {
            run: Digest(run),
            window,
            file,
        })
    }

    proptest! {
        #[test]
        fn keys_round_trip(key in prop_oneof![run_key().prop_map(Key::Run), peer_key().prop_map(Key::Peer)]) {
            let text = key.to_string();
            prop_assert!(crate::place::is_key(&text, 200), "{text}");
            prop_assert_eq!(text.parse::<Key>().unwrap(), key);
        }

        #[test]
        fn windows_sort_as_numbers(a in 0..10_u64.pow(10), b in 0..10_u64.pow(10)) {
            prop_assert_eq!(a.cmp(&b), RunKey::Open(a).to_string().cmp(&RunKey::Open(b).to_string()));
        }

        #[test]
        fn whatever_parses_has_one_spelling(
            key in run_key(), at in any::<prop::sample::Index>(), with in "[0-9a-zA-Z/._ -]{0,2}",
        ) {
            let mut text = key.to_string();
            let at = at.index(text.len());
            text.replace_range(at..=at, &with);
            if let Ok(parsed) = text.parse::<Key>() {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }
    }

    #[test]
    fn spelled_out() {
        let peer = PeerId([0xab; 32]);
        let hex = "ab".repeat(32);
        let spelled = [
            (RunKey::Manifest, "manifest.json".to_owned()),
            (RunKey::Fence(7), "fence/0000000007.json".to_owned()),
            (RunKey::Lobby(peer), format!("lobby/{hex}.json")),
            (RunKey::Roster(Digest([0xab; 32])), format!("rosters/{hex}.json")),
            (RunKey::Open(12), "windows/0000000012/open.json".to_owned()),
            (RunKey::Delta(12), "windows/0000000012/delta.bin".to_owned()),
            (RunKey::Update { window: 12, peer }, format!("windows/0000000012/updates/{hex}.bin")),
            (RunKey::Receipt { window: 12, peer }, format!("windows/0000000012/receipts/{hex}.json")),
            (
                RunKey::Checkpoint { window: 3, file: CheckpointFile::Part { part: 1, of: 3 } },
                "checkpoints/0000000003/model-00001-of-00003.safetensors".to_owned(),
            ),
            (RunKey::Data(DataFile::Shard(ShardId::train(0))), "data/train-00000.bin".to_owned()),
            (RunKey::GcBoundary, "gc/boundary.json".to_owned()),
        ];
        for (key, text) in spelled {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse::<RunKey>().unwrap(), key);
        }
        let key = PeerKey { run: Digest([0xab; 32]), window: 4, file: PeerFile::Scores };
        assert_eq!(key.to_string(), format!("{hex}/windows/0000000004/scores.json"));
    }

    #[test]
    fn other_spellings_are_refused() {
        let hex = "ab".repeat(32);
        for text in [
            "",
            "/",
            "manifest.json/",
            "/manifest.json",
            "Manifest.json",
            "fence/7.json",
            "fence/00000000007.json",
            "fence/+000000007.json",
            "windows/0000000012/open.json ",
            "windows/12/open.json",
            "windows/0000000012/else.json",
            "windows/99999999999999999999999/open.json",
            "checkpoints/0000000003/model-00004-of-00003.safetensors",
            "checkpoints/0000000003/model-00000-of-00003.safetensors",
            "checkpoints/0000000003/../manifest.json",
            "data/other-00000.bin",
            "data/train-0.bin",
            "data/train-000000.bin",
            "probe/",
            "probe/a/b",
            "probe/..",
            &format!("lobby/{}.json", hex.to_uppercase()),
            &format!("lobby/{hex}"),
            &format!("{hex}/windows/0000000004/open.json"),
            &"a".repeat(10_000),
        ] {
            assert!(matches!(text.parse::<Key>(), Err(BucketError::UnknownKey { .. })), "{text:?}");
        }
        assert!(matches!("probe/00ff".parse(), Ok(Key::Probe(_))));
    }
}
