use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use brigade_protocol::{Digest, Split};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as Key};
use parquet::basic::Compression;

use super::super::table::tests::write_table;
use super::super::{DataError, ObjectSink, corpus};
use super::*;

#[test]
fn every_format_gives_its_documents_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::create_dir(&text).unwrap();
    let mut expected = BTreeSet::new();
    let mut take = |range: std::ops::Range<usize>| -> Vec<String> {
        let texts: Vec<String> = range.map(sentence).collect();
        expected.extend(texts.iter().cloned());
        texts
    };
    for (n, document) in take(0..20).into_iter().enumerate() {
        std::fs::write(text.join(format!("{n}.rs")), document).unwrap();
    }
    let lines = |texts: Vec<String>| -> String {
        texts.into_iter().map(|t| serde_json::json!({"id": 1, "text": t}).to_string() + "\n").collect()
    };
    std::fs::write(text.join("a.jsonl"), lines(take(10..40))).unwrap();
    let mut zst = zstd::Encoder::new(std::fs::File::create(text.join("b.jsonl.zst")).unwrap(), 3).unwrap();
    zst.write_all(lines(take(40..70)).as_bytes()).unwrap();
    zst.finish().unwrap();
    let rows = take(60..100);
    let rows: Vec<Option<&str>> = rows.iter().map(|t| Some(t.as_str())).chain([None]).collect();
    write_table(&text.join("c.parquet"), &rows, Compression::SNAPPY);
    std::fs::write(text.join("noise.txt"), b"\x00\x01binary").unwrap();
    std::fs::write(text.join("blank.txt"), "\n  \n").unwrap();

    let out = folder.path().join("out");
    let prepared = prepare_into(&trained(vec![text]), &out);
    let index = prepared.index;
    assert_eq!(read_index(&out), index);
    let (train, heldout) = (documents(&out, &index, Split::Train), documents(&out, &index, Split::Heldout));
    let found: BTreeSet<String> = train.iter().chain(&heldout).cloned().collect();
    assert_eq!(found, expected);
    assert_eq!((train.len() + heldout.len()) as u64, index.documents);
    assert_eq!((index.documents, index.heldout_documents), (100, heldout.len() as u64));
    // Ten lines of a.jsonl repeat source files, ten rows of c.parquet repeat b.jsonl.zst.
    assert_eq!((index.duplicates_dropped, prepared.not_text, prepared.files), (20, 1, 25));
    let length = |texts: &[String]| texts.iter().map(|t| t.len() as u64).sum::<u64>();
    assert_eq!((index.train_text_bytes, index.heldout_text_bytes), (length(&train), length(&heldout)));
    assert!(train.iter().all(|t| !heldout.contains(t)));
}

#[test]
fn shards_are_full_but_the_last_and_hash_as_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (out, index) = small_dataset(folder.path());
    assert!(index.train.len() > 4 && !index.heldout.is_empty());
    let (last, full) = index.train.split_last().unwrap();
    assert!(full.iter().all(|s| s.tokens == 1000 && s.bytes == 2000));
    assert!((1..=1000).contains(&last.tokens));
    let files = files(&out);
    for shard in index.train.iter().chain(&index.heldout) {
        assert_eq!(
            (files[&shard.file].len() as u64, Digest::of(&files[&shard.file])),
            (shard.bytes, shard.sha256)
        );
    }
    assert_eq!(Digest::of(&files["tokenizer.json"]), index.tokenizer.sha256);
    assert_eq!(files.len(), index.train.len() + index.heldout.len() + 2);
    assert_eq!(index.vocab_size, 320);
    assert_eq!(index.tokens(Split::Train), tokens(&out, &index, Split::Train).len() as u64);
}

#[test]
fn a_rerun_gives_the_same_bytes_wherever_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = small_dataset(folder.path());
    let first = files(&out);
    let options = trained(vec![folder.path().join("text")]);
    prepare_into(&options, &out);
    assert_eq!(files(&out), first);
    // Also over a dataset that has lost a shard.
    std::fs::remove_file(out.join("train-00001.bin")).unwrap();
    prepare_into(&options, &out);
    assert_eq!(files(&out), first);

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let sink = ObjectSink::new(Arc::clone(&store), "a bucket", Key::from("sets/a"), runtime.handle().clone());
    prepare(&options, &sink, Progress::hidden()).unwrap();
    for (name, bytes) in &first {
        let key = Key::from("sets/a").join(name.as_str());
        let found = runtime.block_on(async { store.get(&key).await.unwrap().bytes().await.unwrap() });
        assert_eq!(&found, bytes, "{name}");
    }
}

#[test]
fn another_dataset_is_not_overwritten_unless_told() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = small_dataset(folder.path());
    let before = files(&out);
    let mut options = trained(vec![folder.path().join("text")]);
    options.shard_tokens = 900;
    let error = prepare(&options, &FolderSink::new(&out), Progress::hidden()).unwrap_err();
    assert!(matches!(&error, DataError::Occupied { file, .. } if file == "train-00000.bin"), "{error}");
    assert_eq!(files(&out), before);
    options.replace = true;
    let index = prepare_into(&options, &out).index;
    assert_eq!((index.shard_tokens, read_index(&out)), (900, index));
}

#[test]
fn a_loaded_tokenizer_gives_the_dataset_that_it_was_trained_for() {
    let folder = tempfile::tempdir().unwrap();
    let (out, index) = small_dataset(folder.path());
    let mut options = trained(vec![folder.path().join("text")]);
    options.tokenizer = TokenizerChoice::Load { path: out.join("tokenizer.json"), end_of_document: None };
    let again = folder.path().join("again");
    assert_eq!(prepare_into(&options, &again).index, index);
    assert_eq!(files(&again), files(&out));
}

#[test]
fn a_limit_stops_the_reading() {
    let folder = tempfile::tempdir().unwrap();
    let (_, index) = small_dataset(folder.path());
    let mut options = trained(vec![folder.path().join("text")]);
    options.max_bytes = Some(5000);
    let limited = prepare_into(&options, &folder.path().join("limited")).index;
    let bytes = limited.train_text_bytes + limited.heldout_text_bytes;
    assert!((5000..5300).contains(&bytes), "{bytes}");
    assert!(limited.documents < index.documents);
}

#[test]
fn wide_vocabularies_take_four_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = small_dataset(folder.path());
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("tokenizer.json")).unwrap()).unwrap();
    json["model"]["vocab"]["<|wide|>"] = 70_000.into();
    let path = folder.path().join("wide.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let mut options = trained(vec![folder.path().join("text")]);
    options.tokenizer = TokenizerChoice::Load { path, end_of_document: Some("<|endoftext|>".into()) };
    let wide = folder.path().join("wide");
    let index = prepare_into(&options, &wide).index;
    assert_eq!((index.vocab_size, index.token_bytes), (70_001, 4));
    assert_eq!(tokens(&wide, &index, Split::Train), tokens(&out, &read_index(&out), Split::Train));
}

#[test]
fn mistakes_are_explained_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::create_dir(place("empty")).unwrap();
    std::fs::write(place("one.txt"), "a single line").unwrap();
    std::fs::write(place("bad.jsonl"), "{\"text\":\"a\"}\n{\"text\":}\n").unwrap();
    let out = place("out");
    let fails = |options: &PrepareOptions| {
        let error = prepare(options, &FolderSink::new(&out), Progress::hidden()).unwrap_err().to_string();
        assert!(!out.exists() && !error.contains('\n'), "{error}");
        error
    };
    assert!(fails(&trained(vec![place("nowhere")])).ends_with("nowhere: no such file or folder"));
    assert!(fails(&trained(vec![place("empty")])).starts_with("no text found under "));
    assert!(fails(&trained(vec![place("one.txt")])).starts_with("all 1 documents would be held out"));
    assert!(fails(&trained(vec![place("bad.jsonl")])).contains("bad.jsonl:2: expected value"));
    let one = || trained(vec![place("one.txt")]);
    assert!(
        fails(&PrepareOptions { heldout_fraction: f64::NAN, ..one() }).contains("--heldout-fraction NaN")
    );
    assert!(fails(&PrepareOptions { shard_tokens: 1, ..one() }).contains("--shard-tokens 1 is not in"));
    let tokenizer = TokenizerChoice::Train { vocab_size: 256 };
    assert!(fails(&PrepareOptions { tokenizer, ..one() }).contains("--train-bpe 256 is not in 257"));
    let tokenizer = TokenizerChoice::Load { path: place("none.json"), end_of_document: None };
    assert!(fails(&PrepareOptions { tokenizer, ..one() }).contains("none.json"));
    // Without held-out text a single document will do.
    let index = prepare_into(&PrepareOptions { heldout_fraction: 0.0, ..one() }, &out).index;
    assert_eq!((index.documents, index.heldout_documents, index.heldout.len()), (1, 0, 0));
}

#[test]
fn the_demo_corpus_makes_a_dataset() {
    let home = tempfile::tempdir().unwrap();
    for package in 0..30 {
        let folder = home.path().join(format!("registry/src/index/p{package}-1.0.0/src"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("lib.rs"), sentence(package)).unwrap();
    }
    let inputs = corpus::pick(&corpus::folders(home.path()).unwrap(), 1 << 20).unwrap();
    let index = prepare_into(&trained(inputs), &home.path().join("out")).index;
    assert_eq!(index.documents, 30);
}
