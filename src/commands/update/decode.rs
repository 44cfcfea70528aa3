//! `brigade update decode`.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Context as _;
use brigade_codec::{FileInfo, Frame, Layout, Opened, ReadAt};

use super::files::{OTHER_LAYOUT, Shapes, beside, layout_for, read, write_tensors};

/// Arguments of `brigade update decode`.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct DecodeArgs {
    /// An update or a delta.
    file: PathBuf,
    /// Names and shapes of the tensors: a model's config.json or its folder, a list of [name, shape] (JSON), or a .safetensors
    /// file with the same tensors in the same order (what was encoded); FILE.layout.json when left out.
    #[arg(long, value_name = "PATH")]
    layout: Option<PathBuf>,
    /// The dense tensors.
    #[arg(long, value_name = "SAFETENSORS")]
    out: PathBuf,
    /// Decode only this tensor; no more of the file is read than that takes.
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
    /// Decode only these of its rows, counted from 0, the last one left out.
    #[arg(long, value_name = "FIRST..END", requires = "tensor", value_parser = parse_rows)]
    rows: Option<Range<usize>>,
}

fn parse_rows(text: &str) -> Result<Range<usize>, String> {
    let numbers = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    numbers.filter(|rows| !rows.is_empty()).ok_or_else(|| "two numbers like 0..64, the first less".to_owned())
}

/// Writes the dense tensors of a file.
///
/// # Errors
/// When a file cannot be read or written, or breaks the format.
pub(super) fn run(args: &DecodeArgs) -> anyhow::Result<()> {
    let names = layout_for(&args.file, args.layout.as_deref())?.with_context(|| {
        format!(
            "{} does not say which tensors it is about; name them with --layout (a run's checkpoint has a config.json), or put {} \
             beside it",
            args.file.display(),
            beside(&args.file).display()
        )
    })?;
    let in_file = || args.file.display().to_string();
    let (names, dense) = match &args.tensor {
        None => whole(args, names).with_context(in_file)?,
        Some(tensor) => some_rows(args, tensor, names).with_context(in_file)?,
    };
    write_tensors(&args.out, &names, &dense)
}

type Dense = (Shapes, Vec<Vec<f32>>);

fn whole(args: &DecodeArgs, names: Shapes) -> anyhow::Result<Dense> {
    let layout = Layout::new(names.iter().cloned())?;
    let bytes = read(&args.file)?;
    let info = FileInfo::read(&bytes)?;
    anyhow::ensure!(info.layout == layout.digest(), OTHER_LAYOUT);
    let opened = info.open(bytes, &layout)?;
    // Only now: a layout that is not the file's could be of any size.
    let mut dense = layout.zeros();
    match opened {
        Opened::Update(update) => update.decode_into(&mut dense)?,
        Opened::Delta(delta) => delta.decode_into(&mut dense)?,
    }
    Ok((names, dense))
}

fn some_rows(args: &DecodeArgs, tensor: &str, mut names: Shapes) -> anyhow::Result<Dense> {
    let layout = Layout::new(names.iter().cloned())?;
    let number = names.iter().position(|(name, _)| name == tensor);
    let number = number.with_context(|| {
        let distance = |(name, _): &&(String, Vec<usize>)| strsim::damerau_levenshtein(tensor, name);
        let nearest = names.iter().min_by_key(distance).map_or("", |(name, _)| name);
        format!("there is no tensor `{tensor}`; the nearest is `{nearest}`, and `brigade update inspect` lists all")
    })?;
    let file = File::open(&args.file)?;
    let first = file.read_at(0..Frame::len(&layout).min(ReadAt::len(&file)?))?;
    let info = FileInfo::read(&first)?;
    anyhow::ensure!(info.layout == layout.digest(), OTHER_LAYOUT);
    let frame = info.frame(&first, &layout)?;
    let (name, mut shape) = names.swap_remove(number);
    let rows = args.rows.clone().unwrap_or(0..shape.first().copied().unwrap_or(1));
    let wanted = frame.rows(number, rows.clone())?;
    if let Some(height) = shape.first_mut() {
        *height = rows.len();
    }
    let mut dense = vec![0.0; shape.iter().product()];
    let start = rows.start * (dense.len() / rows.len());
    for (number, section) in wanted.sections().enumerate() {
        wanted
            .decode_section(number, &file.read_at(section)?, |index, value| dense[index - start] = value)?;
    }
    Ok((vec![(name, shape)], vec![dense]))
}
