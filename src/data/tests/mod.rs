//! Datasets made from real files, and read back.
#![allow(clippy::unwrap_used)]

mod caching;
mod preparing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brigade_protocol::{DATASET_INDEX_FILE, DatasetIndex, ShardId, Split};

use super::{Encoder, FolderSink, PrepareOptions, Prepared, Progress, TokenizerChoice, prepare};

/// Some two hundred sentences that differ.
fn sentence(n: usize) -> String {
    let (a, b) = (["the", "a", "one", "every"][n % 4], ["river", "bucket", "window", "peer", "delta"][n % 5]);
    format!("{a} {b} carries {n} words and {} more, fn f{n}(x: u32) -> u32 {{ x + {n} }}\n", n * 7 % 13)
        .repeat(n % 3 + 1)
}

fn trained(inputs: Vec<PathBuf>) -> PrepareOptions {
    PrepareOptions {
        shard_tokens: 1000,
        heldout_fraction: 0.1,
        ..PrepareOptions::new(inputs, TokenizerChoice::Train { vocab_size: 320 })
    }
}

fn prepare_into(options: &PrepareOptions, folder: &Path) -> Prepared {
    prepare(options, &FolderSink::new(folder), Progress::hidden()).unwrap()
}

/// Every file of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// A dataset of two hundred documents in `folder/out`.
fn small_dataset(folder: &Path) -> (PathBuf, DatasetIndex) {
    let (text, out) = (folder.join("text"), folder.join("out"));
    std::fs::create_dir(&text).unwrap();
    for n in 0..200 {
        std::fs::write(text.join(format!("{n:03}.txt")), sentence(n)).unwrap();
    }
    let index = prepare_into(&trained(vec![text]), &out).index;
    (out, index)
}

/// All tokens of a split, from the files.
fn tokens(folder: &Path, index: &DatasetIndex, split: Split) -> Vec<u32> {
    let mut tokens = Vec::new();
    for number in 0..index.shards(split).len() as u32 {
        let bytes = std::fs::read(folder.join(ShardId { split, number }.file_name())).unwrap();
        match index.token_bytes {
            2 => tokens.extend(bytes.chunks_exact(2).map(|t| u32::from(u16::from_le_bytes([t[0], t[1]])))),
            _ => tokens.extend(bytes.chunks_exact(4).map(|t| u32::from_le_bytes([t[0], t[1], t[2], t[3]]))),
        }
    }
    tokens
}

/// The documents of a split, decoded.
fn documents(folder: &Path, index: &DatasetIndex, split: Split) -> Vec<String> {
    let encoder = Encoder::load(&folder.join("tokenizer.json"), None).unwrap();
    let tokens = tokens(folder, index, split);
    let documents = tokens.split_inclusive(|t| *t == index.end_of_document);
    documents
        .map(|document| {
            let (end, text) = document.split_last().unwrap();
            assert_eq!(*end, index.end_of_document);
            encoder.decode(text).unwrap()
        })
        .collect()
}

fn read_index(folder: &Path) -> DatasetIndex {
    DatasetIndex::from_json(&std::fs::read(folder.join(DATASET_INDEX_FILE)).unwrap()).unwrap()
}
