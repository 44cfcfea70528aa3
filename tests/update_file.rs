//! Update files as people and other programs see them: `brigade update`, and a decoder in Python that was written from
//! `docs/update-format.md` alone.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::process::Command;

use brigade::run::Run;
use brigade_bucket::keys::RunKey;
use brigade_codec::{FileInfo, Frame, Opened};
use brigade_protocol::Digest;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use support::stores::Store;
use support::{Terms, World, brigade, brigade_fails};

/// In the order in which safetensors writes them.
const SHAPES: [(&str, &[usize]); 3] = [("matrix", &[130, 200]), ("scalar", &[]), ("vector", &[5000])];

/// Values with heavy tails, from integers alone.
fn values(seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (state as i32 >> 8) as f32 / 8_388_608.0;
        x * x * x / 256.0
    };
    SHAPES.iter().map(|(_, shape)| (0..shape.iter().product()).map(|_| next()).collect()).collect()
}

fn write(path: &Path, tensors: &[Vec<f32>]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|tensor| tensor.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = SHAPES.iter().zip(&bytes);
    let views = views
        .map(|((name, shape), bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn read(path: &Path) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    SHAPES.iter().map(|(name, _)| floats(file.tensor(name).unwrap().data())).collect()
}

/// SHA-256 over what the Python decoder makes of a file: its tensors' bytes in the order of the layout.
fn decoded_by_python(file: &Path, layout: &Path) -> (serde_json::Value, Digest) {
    let python = std::env::var("BRIGADE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let out = file.with_extension("npz");
    let decoder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/decode_update.py");
    let run = |args: &[&std::ffi::OsStr]| {
        let output = Command::new(&python).args(args).output();
        let output =
            output.unwrap_or_else(|error| panic!("cannot run {python}: {error}; `make test` sets it up"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run(&[decoder.as_ref(), file.as_ref(), layout.as_ref(), out.as_ref()]);
    let sum = "import hashlib, json, sys, numpy\nz = numpy.load(sys.argv[1])\nh = hashlib.sha256()\n\
               for name, _ in json.load(open(sys.argv[2])): h.update(z[name].astype('<f4').tobytes())\nprint(h.hexdigest())";
    let digest = run(&["-c".as_ref(), sum.as_ref(), out.as_ref(), layout.as_ref()]);
    (serde_json::from_str(&said).unwrap(), digest.trim().parse().unwrap())
}

fn digest(tensors: &[Vec<f32>]) -> Digest {
    Digest::of(tensors.iter().flatten().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

#[test]
fn what_is_encoded_is_inspected_and_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (delta, e) = (values(1), values(2));
    write(&path("delta.safetensors"), &delta);
    write(&path("e.safetensors"), &e);
    let said = brigade(
        &["update", "encode", "--bits", "1", "--window", "7", "--input"],
        &[
            &path("delta.safetensors"),
            Path::new("--error-feedback"),
            &path("e.safetensors"),
            Path::new("--error-feedback-out"),
            &path("after.safetensors"),
            Path::new("--out"),
            &path("update.bin"),
        ],
    );
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let bytes = std::fs::read(path("update.bin")).unwrap();
    assert_eq!(
        (said["parameters"].as_u64(), said["bytes"].as_u64()),
        (Some(31_001), Some(bytes.len() as u64))
    );

    brigade(&["update", "decode"], &[&path("update.bin"), Path::new("--out"), &path("dense.safetensors")]);
    let (dense, after) = (read(&path("dense.safetensors")), read(&path("after.safetensors")));
    for t in 0..SHAPES.len() {
        for i in 0..dense[t].len() {
            let folded = 0.95 * e[t][i] + delta[t][i];
            assert_eq!(
                after[t][i].to_bits(),
                if dense[t][i] == 0.0 { folded } else { folded - dense[t][i] }.to_bits()
            );
        }
    }

    brigade(
        &["update", "decode", "--tensor", "matrix", "--rows", "60..70"],
        &[&path("update.bin"), Path::new("--out"), &path("rows.safetensors")],
    );
    let bytes_of_rows = std::fs::read(path("rows.safetensors")).unwrap();
    let rows = SafeTensors::deserialize(&bytes_of_rows).unwrap();
    let rows = rows.tensor("matrix").unwrap();
    let (_, matrix) = SHAPES.iter().zip(&dense).find(|((name, _), _)| *name == "matrix").unwrap();
    let width = rows.shape()[1];
    assert_eq!(rows.shape()[0], 10);
    let expected: Vec<u8> = matrix[60 * width..70 * width].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(rows.data() == expected, "rows 60 to 70 are those of the whole");

    let inspected = brigade(&["update", "inspect", "--json"], &[&path("update.bin")]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!((inspected["kind"].as_str(), inspected["window"].as_u64()), (Some("update"), Some(7)));
    assert_eq!(inspected["sha256"], said["sha256"]);
    let tensors = inspected["tensors"].as_array().unwrap();
    let kept: u64 = tensors.iter().map(|tensor| tensor["kept"].as_u64().unwrap()).sum();
    let nonzero = dense.iter().flatten().filter(|value| **value != 0.0).count();
    assert_eq!((kept, tensors.len()), (nonzero as u64, 3));
    let parts: f64 = ["index_bits", "code_bits", "scale_bits", "framing_bits"]
        .map(|part| inspected["whole"][part].as_f64().unwrap())
        .iter()
        .sum();
    assert!((parts * kept as f64 - 8.0 * bytes.len() as f64).abs() < 1e-6, "the parts are the whole");
    let shown = brigade(&["update", "inspect"], &[&path("update.bin")]);
    assert!(shown.contains("matrix") && shown.contains("× the bound"), "{shown}");

    let (header, by_python) = decoded_by_python(&path("update.bin"), &path("update.bin.layout.json"));
    assert_eq!(header["kept"].as_u64(), Some(kept));
    assert_eq!(by_python, digest(&dense), "the decoder in Python sees the same bits");
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("delta.safetensors"), &values(1));
    let encode = ["update", "encode", "--input"];
    brigade(&encode, &[&path("delta.safetensors"), Path::new("--out"), &path("update.bin")]);
    let bytes = std::fs::read(path("update.bin")).unwrap();
    std::fs::write(path("cut.bin"), &bytes[..bytes.len() - 1]).unwrap();
    std::fs::copy(path("update.bin.layout.json"), path("cut.bin.layout.json")).unwrap();
    std::fs::write(path("lone.bin"), &bytes).unwrap();
    std::fs::write(path("other.json"), r#"[["matrix", [131, 200]]]"#).unwrap();
    let decode = |file: &str, rest: &[&Path], expected: &[&str]| {
        let out = path("out.safetensors");
        let file = path(file);
        let paths = [&[file.as_path(), Path::new("--out"), out.as_path()], rest].concat();
        brigade_fails(&["update", "decode"], &paths, expected);
        assert!(!out.exists(), "nothing partial is written");
    };
    decode("cut.bin", &[], &["bytes", "expected"]);
    decode("lone.bin", &[], &["--layout"]);
    decode("lone.bin", &[Path::new("--layout"), &path("other.json")], &["layout"]);
    decode("update.bin.layout.json", &[Path::new("--layout"), &path("update.bin.layout.json")], &["update"]);
    let rows = |tensor: &str, rows: &str, expected: &[&str]| {
        let out = path("rows.safetensors");
        let args = ["update", "decode", "--tensor", tensor, "--rows", rows];
        brigade_fails(&args, &[&path("update.bin"), Path::new("--out"), &out], expected);
    };
    rows("matrices", "0..1", &["update.bin", "no tensor `matrices`"]);
    rows("matrix", "100..131", &["update.bin", "rows", "130", "131"]);
    brigade_fails(&["update", "inspect"], &[&path("missing.bin")], &["missing.bin", "No such file"]);
    // Without a layout too, and although the header is in order.
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(path("flipped.bin"), flipped).unwrap();
    brigade_fails(&["update", "inspect"], &[&path("flipped.bin")], &["flipped.bin", "section 0", "SHA-256"]);
    brigade_fails(
        &encode,
        &[&path("update.bin"), Path::new("--out"), &path("x")],
        &["update.bin", "safetensors"],
    );
}

/// Rows 16 to 48 of the first tensor, from two requests for parts of the object.
async fn rows_by_range(run: &Run, key: &str) -> Vec<f32> {
    let get = |range: std::ops::Range<u64>| async { run.bucket().get_range(key, range, None).await.unwrap() };
    let first = get(0..Frame::len(run.layout())).await;
    let frame = FileInfo::read(&first).unwrap().frame(&first, run.layout()).unwrap();
    let rows = frame.rows(0, 16..48).unwrap();
    let width = run.layout().tensors()[0].len() / run.layout().tensors()[0].shape()[0];
    let mut dense = vec![0.0; 32 * width];
    rows.decode(&get(rows.bytes()).await, |index, value| dense[index - 16 * width] = value).unwrap();
    dense
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decoder_in_python_reads_a_live_run() {
    let mut world = World::new(Store::embedded(), 2, &Terms { windows: 2, ..Terms::default() });
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_key(RunKey::Close(0)).await;
    let run = world.run("miner-0").await;
    let model = run.manifest().model.tensors();
    let layout: Vec<_> = model.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("layout.json");
    std::fs::write(&names, serde_json::to_vec(&layout).unwrap()).unwrap();
    let width: usize = layout[0].1[1..].iter().product();
    let (open, close) =
        (run.open(0).await.unwrap().unwrap().record, run.close(0).await.unwrap().unwrap().record);
    let update = RunKey::Update { window: 0, peer: world.id("miner-0") }.to_string();
    for key in [update, close.delta.unwrap().key] {
        let bytes = run.bucket().get(&key, 1 << 24).await.unwrap().bytes;
        let file = folder.path().join("file.bin");
        std::fs::write(&file, &bytes).unwrap();
        let (header, by_python) = decoded_by_python(&file, &names);
        assert_eq!(header["run"], run.id().to_string());
        assert_eq!(header["start_state_root"], open.state_root.to_string());
        let mut dense = run.layout().zeros();
        match FileInfo::read(&bytes).unwrap().open(bytes, run.layout()).unwrap() {
            Opened::Update(update) => update.decode_into(&mut dense).unwrap(),
            Opened::Delta(delta) => delta.decode_into(&mut dense).unwrap(),
        }
        assert_eq!(by_python, digest(&dense), "{key}");
        let rows = rows_by_range(&run, &key).await;
        assert!(rows == dense[0][16 * width..48 * width], "{key}: rows 16 to 48 of the first tensor");
    }
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
}
