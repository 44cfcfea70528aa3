//! `brigade update`: make update files, read them, look into them. For people who debug a run.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_codec::{Binding, CodeBits, CodecConfig, FileInfo, Layout, Opened, Stats, TensorStats, compress};
use brigade_protocol::Digest;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;

/// What to do with an update file or a delta file.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Compress a pseudo-gradient into an update file.
    ///
    /// Beside it goes FILE.layout.json, the tensors' names and shapes, which `decode` and `inspect` look for.
    Encode(EncodeArgs),
    /// Decode an update or a delta to dense fp32 tensors, zero where nothing was kept.
    Decode(DecodeArgs),
    /// Show what a file is for, where its bits went, and how far that is from the entropy bound.
    Inspect(InspectArgs),
}

/// Arguments of `brigade update encode`.
#[derive(Debug, clap::Args)]
pub(super) struct EncodeArgs {
    /// The pseudo-gradient, fp32.
    #[arg(long, value_name = "SAFETENSORS")]
    input: PathBuf,
    /// Error feedback of the window before, fp32; zero when left out.
    #[arg(long, value_name = "SAFETENSORS")]
    error_feedback: Option<PathBuf>,
    /// Where the new error feedback goes; nowhere when left out.
    #[arg(long, value_name = "SAFETENSORS")]
    error_feedback_out: Option<PathBuf>,
    /// The update file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Values kept in a chunk of 4096.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    top_k: u32,
    /// Bits of a value's code, its sign included.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    bits: u8,
    /// How much of the old error feedback is kept: β.
    #[arg(long, default_value_t = 0.95)]
    decay: f32,
    /// The run's id.
    #[arg(long, value_name = "SHA256", default_value_t = Digest([0; 32]))]
    run: Digest,
    /// The window.
    #[arg(long, default_value_t = 0)]
    window: u64,
    /// The peer's public key.
    #[arg(long, value_name = "HEX", default_value_t = Digest([0; 32]))]
    peer: Digest,
    /// State root of θ at the window's start.
    #[arg(long, value_name = "SHA256", default_value_t = Digest([0; 32]))]
    start_state_root: Digest,
}

/// Arguments of `brigade update decode`.
#[derive(Debug, clap::Args)]
pub(super) struct DecodeArgs {
    /// An update or a delta.
    file: PathBuf,
    /// Names and shapes of the tensors: a list of [name, shape] (JSON), a model's config.json, or a .safetensors file with
    /// the same tensors; FILE.layout.json when left out.
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// The dense tensors.
    #[arg(long, value_name = "SAFETENSORS")]
    out: PathBuf,
}

/// Arguments of `brigade update inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// An update or a delta.
    file: PathBuf,
    /// As of `decode`; without one only the header is shown.
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `brigade update`.
///
/// # Errors
/// When a file cannot be read or written, or breaks the format.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Encode(args) => println!("{}", encode(&args)?),
        Action::Decode(args) => decode(&args)?,
        Action::Inspect(args) => {
            let said = inspect(&args)?;
            let text = if args.json { serde_json::to_string_pretty(&said)? } else { describe(&said) };
            println!("{text}");
        }
    }
    Ok(())
}

fn encode(args: &EncodeArgs) -> anyhow::Result<serde_json::Value> {
    let (names, delta) = read_tensors(&args.input)?;
    let layout = Layout::new(names.iter().cloned())?;
    let mut e = match &args.error_feedback {
        None => layout.zeros(),
        Some(path) => {
            let (found, e) = read_tensors(path)?;
            anyhow::ensure!(found == names, "{} does not have the tensors of the input", path.display());
            e
        }
    };
    let bits = CodeBits::from_number(args.bits).context("--bits is 1 to 4")?;
    let config = CodecConfig { top_k: args.top_k, bits, error_feedback_decay: args.decay };
    let (run, peer, start_state_root) = (args.run.0, args.peer.0, args.start_state_root.0);
    let binding = Binding { run, window: args.window, peer, start_state_root };
    let slices: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
    let bytes = compress(&layout, &binding, &config, &slices, &mut e)?;
    write(&args.out, &bytes)?;
    write(&beside(&args.out), &serde_json::to_vec(&names)?)?;
    if let Some(path) = &args.error_feedback_out {
        write_tensors(path, &names, &e)?;
    }
    let parameters = layout.num_parameters();
    Ok(json!({ "parameters": parameters, "bytes": bytes.len(), "sha256": Digest::of(&bytes) }))
}

fn decode(args: &DecodeArgs) -> anyhow::Result<()> {
    let bytes = read(&args.file)?;
    let names = layout_for(&args.file, args.layout.as_deref())?.with_context(|| {
        format!(
            "the file does not say which tensors it is about; name them with --layout, or put {} beside it",
            beside(&args.file).display()
        )
    })?;
    let layout = Layout::new(names.iter().cloned())?;
    let opened = FileInfo::read(&bytes)?.open(bytes, &layout)?;
    // Only now: a layout that is not the file's could be of any size.
    let mut dense = layout.zeros();
    match opened {
        Opened::Update(update) => update.decode_into(&mut dense)?,
        Opened::Delta(delta) => delta.decode_into(&mut dense)?,
    }
    write_tensors(&args.out, &names, &dense)
}

fn inspect(args: &InspectArgs) -> anyhow::Result<serde_json::Value> {
    let bytes = read(&args.file)?;
    let info = FileInfo::read(&bytes)?;
    let section = |(len, sha256): &(u32, [u8; 32])| json!({ "bytes": len, "sha256": Digest(*sha256) });
    let mut said = json!({
        "kind": if info.is_delta { "delta" } else { "update" },
        "run": Digest(info.binding.run),
        "window": info.binding.window,
        "peer": Digest(info.binding.peer),
        "start_state_root": Digest(info.binding.start_state_root),
        "layout": Digest(info.layout),
        "top_k": info.top_k,
        "bits": info.bits as u8,
        "bytes": bytes.len(),
        "sha256": Digest::of(&bytes),
        "sections": info.sections.iter().map(section).collect::<Vec<_>>(),
    });
    let Some(names) = layout_for(&args.file, args.layout.as_deref())? else { return Ok(said) };
    let layout = Layout::new(names)?;
    let (stats, tensors) = match info.open(bytes, &layout)? {
        Opened::Update(update) => (update.stats()?, update.tensor_stats()?),
        Opened::Delta(delta) => (delta.stats()?, delta.tensor_stats()?),
    };
    said["whole"] = whole(&stats);
    let tensors = layout.tensors().iter().zip(&tensors);
    said["tensors"] = tensors.map(|(tensor, stats)| one(tensor.name(), tensor.shape(), stats)).collect();
    Ok(said)
}

fn whole(stats: &Stats) -> serde_json::Value {
    let per = |bits: f64| bits / stats.kept.max(1) as f64;
    json!({
        "parameters": stats.parameters,
        "kept": stats.kept,
        "bits_per_kept_value": stats.bits_per_kept(),
        "index_bits": per(stats.index_bits),
        "code_bits": per(stats.code_bits),
        "scale_bits": per(stats.scale_bits),
        "framing_bits": per(stats.framing_bits),
        "index_bound_bits": per(stats.index_bound_bits),
        "times_bound": 8.0 * stats.bytes as f64 / stats.bound_bits().max(1.0),
        "ratio_fp32": stats.compression(),
        "ratio_bf16": stats.compression() / 2.0,
    })
}

fn one(name: &str, shape: &[usize], stats: &TensorStats) -> serde_json::Value {
    let per = |bits: f64| bits / stats.kept.max(1) as f64;
    let bits = stats.index_bits + stats.code_bits + stats.scale_bits;
    json!({
        "name": name,
        "shape": shape,
        "chunks": stats.chunks,
        "kept": stats.kept,
        "bytes": bits / 8.0,
        "bits_per_kept_value": per(bits),
        "index_bits": per(stats.index_bits),
        "code_bits": per(stats.code_bits),
        "scale_bits": per(stats.scale_bits),
        "index_bound_bits": per(stats.index_bound_bits),
    })
}

/// The same for a person.
fn describe(said: &serde_json::Value) -> String {
    let text = |key: &str| said[key].as_str().map_or_else(|| said[key].to_string(), str::to_owned);
    let mut lines: Vec<String> =
        ["kind", "run", "window", "peer", "start_state_root", "layout", "top_k", "bits", "bytes", "sha256"]
            .map(|key| format!("{:<17} {}", key.replace('_', " "), text(key)))
            .into();
    lines.push(format!("{:<17} {}", "sections", said["sections"].as_array().map_or(0, Vec::len)));
    let Some(tensors) = said["tensors"].as_array() else {
        lines.push("No layout: name one with --layout to see the tensors.".to_owned());
        return lines.join("\n");
    };
    let whole = &said["whole"];
    let number = |of: &serde_json::Value, key: &str| of[key].as_f64().unwrap_or(0.0);
    lines.push(format!(
        "{:<17} {:.1} times smaller than fp32, {:.1} than bf16; {:.3} bits a kept value, {:.4} × the bound",
        "size",
        number(whole, "ratio_fp32"),
        number(whole, "ratio_bf16"),
        number(whole, "bits_per_kept_value"),
        number(whole, "times_bound"),
    ));
    let width = tensors.iter().filter_map(|tensor| tensor["name"].as_str()).map(str::len).max().unwrap_or(0);
    lines.push(String::new());
    lines.push(format!(
        "{:<width$}  chunks     kept     bytes    bits =  index (bound) +  code + scale",
        "tensor"
    ));
    lines.extend(tensors.iter().map(|tensor| {
        format!(
            "{:<width$} {:>7} {:>8} {:>9.0} {:>7.3} = {:>6.3} ({:.3}) + {:>5.3} + {:>5.3}",
            tensor["name"].as_str().unwrap_or(""),
            number(tensor, "chunks"),
            number(tensor, "kept"),
            number(tensor, "bytes"),
            number(tensor, "bits_per_kept_value"),
            number(tensor, "index_bits"),
            number(tensor, "index_bound_bits"),
            number(tensor, "code_bits"),
            number(tensor, "scale_bits"),
        )
    }));
    lines.join("\n")
}

type Shapes = Vec<(String, Vec<usize>)>;

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".layout.json");
    name.into()
}

/// Names and shapes from the file that was named, or from the one beside `file` if there is one.
fn layout_for(file: &Path, named: Option<&Path>) -> anyhow::Result<Option<Shapes>> {
    let beside = beside(file);
    let Some(path) = named.or_else(|| beside.exists().then_some(beside.as_path())) else { return Ok(None) };
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return Ok(Some(read_tensors(path)?.0));
    }
    let wrong = || format!("{} is neither a list of [name, shape] nor a model's config.json", path.display());
    let value: serde_json::Value = serde_json::from_slice(&read(path)?).with_context(wrong)?;
    if value.is_array() {
        return Ok(Some(serde_json::from_value(value).with_context(wrong)?));
    }
    let model = brigade_protocol::ModelConfig::from_hugging_face(&value).with_context(wrong)?;
    Ok(Some(model.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The tensors of a file in the order in which they lie.
fn read_tensors(path: &Path) -> anyhow::Result<(Shapes, Vec<Vec<f32>>)> {
    let bytes = read(path)?;
    let file =
        SafeTensors::deserialize(&bytes).with_context(|| format!("{} is no .safetensors", path.display()))?;
    let mut tensors = file.tensors();
    tensors.sort_by_key(|(_, view)| view.data().as_ptr());
    let mut shapes = Vec::new();
    let mut values = Vec::new();
    for (name, view) in tensors {
        anyhow::ensure!(
            view.dtype() == Dtype::F32,
            "{}: `{name}` is {:?}, not F32",
            path.display(),
            view.dtype()
        );
        values.push(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        shapes.push((name, view.shape().to_vec()));
    }
    Ok((shapes, values))
}

fn write_tensors(path: &Path, shapes: &Shapes, values: &[Vec<f32>]) -> anyhow::Result<()> {
    let bytes: Vec<Vec<u8>> =
        values.iter().map(|tensor| tensor.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = shapes
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    write(path, &safetensors::serialize(views, None)?)
}
