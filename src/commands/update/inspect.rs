//! `brigade update inspect`.

use std::path::PathBuf;

use anyhow::Context as _;
use brigade_codec::{FileInfo, Layout, Opened, Stats, TensorStats};
use brigade_protocol::Digest;
use serde_json::json;

use super::super::answer;
use super::files::{OTHER_LAYOUT, layout_for, read};

/// Arguments of `brigade update inspect`.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct InspectArgs {
    /// An update or a delta.
    file: PathBuf,
    /// As of `decode`; without one only the header is shown.
    #[arg(long, value_name = "PATH")]
    layout: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what a file says and where its bits went.
///
/// # Errors
/// When the file cannot be read or breaks the format.
pub(super) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let said = inspect(args).with_context(|| args.file.display().to_string())?;
    answer(if args.json { serde_json::to_string_pretty(&said)? } else { describe(&said) })
}

fn inspect(args: &InspectArgs) -> anyhow::Result<serde_json::Value> {
    let bytes = read(&args.file)?;
    let info = FileInfo::read(&bytes)?;
    info.verify(&bytes)?;
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
    anyhow::ensure!(info.layout == layout.digest(), OTHER_LAYOUT);
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
        lines.push(
            "No layout: name one with --layout (a config.json, as in every checkpoint) to see the tensors."
                .to_owned(),
        );
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
    lines.push("The bound is that of places drawn by chance: an index that takes fewer bits found places that cluster.".to_owned());
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
