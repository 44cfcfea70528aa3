//! The whole system on one machine: a store, an aggregator, a validator and miners, each a process of its own.
//!
//! | module | role |
//! | --- | --- |
//! | `plan` | model and settings |
//! | `cast` | who is who, and who cheats |
//! | `place` | the folder: settings, identities and keys of everybody |
//! | `children` | the processes |
//! | `board` | bars and table |
//! | `report` | the rows, `report.json` |
//! | `baseline` | dense DiLoCo and data-parallel AdamW on the same text |
//! | `plot`, `sample` | the loss curve; what the model writes |

mod baseline;
mod board;
mod cast;
mod children;
mod place;
pub(crate) mod plan;
mod plot;
mod report;
mod sample;
mod setup;

use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::HumanDuration;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::config::Participant;
use crate::events::Event;
use crate::run::{Run, checkpoint};
use crate::shutdown::Shutdown;
use board::Board;
use cast::Cast;
pub use cast::Part;
use children::{Children, Heard, Spec};
use place::Place;
use plot::Curve;
use report::{Report, Row, Story};

/// What the demo is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that keeps everything.
    pub dir: PathBuf,
    /// Number of miners.
    pub miners: u32,
    /// Number of windows.
    pub windows: u64,
    /// Who of the miners cheat, the last ones.
    pub attacks: Vec<Part>,
    /// `demo`, `tiny`, or a JSON file.
    pub model: String,
    /// Text to train on; empty for the Rust source on this machine.
    pub data: Vec<PathBuf>,
    /// Rows as JSON on standard output.
    pub json: bool,
    /// Run the baselines afterwards.
    pub baseline: bool,
}

/// Runs the demo to its end, or until somebody wants it to stop.
///
/// # Errors
/// What stopped it; being asked to is [`crate::shutdown::Stopped`].
pub async fn run(options: Options, shutdown: Shutdown) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let mut cast = Cast::new(options.miners, &options.attacks)?;
    let place = Place::new(&options.dir)?;
    let (mut children, mut inbox) = Children::new()?;
    let outcome = async {
        setup::prepare(&options, &cast, &place, &mut children, &mut inbox, &shutdown).await?;
        cast.meet(&place)?;
        let story = train(&options, cast, &place, &mut children, &mut inbox, &shutdown).await?;
        finish(&options, &place, &story, &shutdown).await
    };
    let outcome = outcome.await;
    children.stop().await;
    let note = format!("{}\nfinished in {}", outcome?, HumanDuration(started.elapsed()));
    Board::new(&[], 0, options.json).note(&note);
    Ok(())
}

/// Starts everybody and listens until all are done.
async fn train(
    options: &Options,
    cast: Cast,
    place: &Place,
    children: &mut Children,
    inbox: &mut UnboundedReceiver<(String, Heard)>,
    shutdown: &Shutdown,
) -> anyhow::Result<Story> {
    let names = setup::participants(&cast);
    let params = plan::model(&options.model, plan::VOCABULARY).map_or(0, |model| model.num_parameters());
    let mut story = Story::new(cast);
    for name in &names {
        children::earlier_events(&place.path(name)).iter().for_each(|event| story.hear(name, event));
    }
    let mut board = Board::new(&names, options.windows, options.json);
    let mut next_row = 0;
    let mut left = names.len();
    for name in &names {
        let role = name.split('-').next().unwrap_or(name);
        let config = place.config(name).display().to_string();
        let mut args = [role, "--config", &config, "--json", "--stop-with-stdin"].map(str::to_owned).to_vec();
        if let Some(attack) = story.cast().attacks().get(name) {
            args.extend(["--cheat".to_owned(), attack.to_string()]);
        }
        children.start(Spec { name: name.clone(), args, folder: place.path(name) })?;
    }
    while left > 0 {
        let (who, heard) = shutdown.or(inbox.recv()).await?.context("nobody is left to listen to")?;
        match heard {
            Heard::Event(event) => {
                board.show(&who, &event);
                story.hear(&who, &event);
                if let Event::Warning { message } = &event {
                    board.note(&format!("{who}: {message}"));
                }
                while let Some(row) = story.whole_row(next_row, params) {
                    board.row(&row, &story.cast().remarks(&row));
                    next_row += 1;
                }
            }
            Heard::Ended { ok: true, .. } => left -= 1,
            Heard::Ended { ok: false, last_words } => {
                let message = last_words.strip_prefix("error: ").unwrap_or(&last_words);
                board.note(&format!("{who} died: {message}"));
                if !children.restart(&who)? {
                    anyhow::ensure!(who.starts_with("miner"), "{who}: {message}");
                    left -= 1;
                }
            }
        }
    }
    board.clear();
    Ok(story)
}

/// Fetches the model, lets it write, draws the curve, writes the report.
async fn finish(
    options: &Options,
    place: &Place,
    story: &Story,
    shutdown: &Shutdown,
) -> anyhow::Result<String> {
    let settings = Participant::read(&place.config("validator"))?;
    let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
    let params = run.manifest().model.num_parameters();
    let folder = place.path("checkpoint");
    checkpoint::download(&run, &checkpoint::latest(&run).await?.record, &folder).await?;
    let rows = story.rows(params);
    let mut curves = vec![Curve {
        name: "Brigade".into(),
        points: rows.iter().filter_map(|row| Some((row.window as f64 + 1.0, row.heldout_loss?))).collect(),
        is_cheat: false,
    }];
    let baselines = if options.baseline {
        let found = baseline::run(&run, &settings, shutdown).await?;
        for (name, losses) in &found {
            let points = (1..).map(f64::from).zip(losses.iter().copied()).collect();
            curves.push(Curve { name: name.clone(), points, is_cheat: false });
        }
        Some(found)
    } else {
        None
    };
    let loss_curve = place.path("loss.svg");
    let title = format!("{:.1} M parameters, {} miners", params as f64 / 1e6, options.miners);
    plot::draw(&loss_curve, &title, "held-out loss (nats a token)", &curves)?;
    let weights_curve = draw_weights(place, story.cast(), &rows)?;
    let sample = sample::write(&run, &settings, &folder).await?;
    let report = Report {
        params,
        checkpoint: folder.clone(),
        loss_curve,
        weights_curve,
        attacks: story.cast().attacks().clone(),
        sample,
        windows: rows,
        baselines,
    };
    let path = place.path("report.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(summary(&report, &path))
}

/// Draws everybody's weight over the windows, where some cheat.
fn draw_weights(place: &Place, cast: &Cast, rows: &[Row]) -> anyhow::Result<Option<PathBuf>> {
    let curve = |name: &String| {
        let weight = |row: &Row| Some(100.0 * row.weights.as_ref()?.get(name)?);
        let points = rows.iter().filter_map(|row| Some((row.window as f64 + 1.0, weight(row)?))).collect();
        Curve { name: cast.label(name), points, is_cheat: cast.attacks().contains_key(name) }
    };
    let curves: Vec<Curve> = cast.miners().iter().map(curve).collect();
    if cast.attacks().is_empty() || curves.iter().all(|curve| curve.points.is_empty()) {
        return Ok(None);
    }
    let path = place.path("weights.svg");
    plot::draw(&path, "What the miners earn", "share of the reward (%)", &curves)?;
    Ok(Some(path))
}

fn summary(report: &Report, path: &std::path::Path) -> String {
    let mut out = format!("\nthe model writes:\n{}\n", indent(&report.sample));
    for (name, losses) in report.baselines.iter().flatten() {
        if let (Some(ours), Some(theirs)) =
            (report.windows.last().and_then(|row| row.heldout_loss), losses.last())
        {
            let percent = (ours / theirs - 1.0) * 100.0;
            out += &format!("held-out loss {ours:.4}, {name} {theirs:.4}: {percent:+.1} %\n");
        }
    }
    out += &format!("checkpoint  {}\n", report.checkpoint.display());
    out += &format!("loss curve  {}\n", report.loss_curve.display());
    if let Some(path) = &report.weights_curve {
        out += &format!("weights     {}\n", path.display());
    }
    out + &format!("report      {}", path.display())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  │ {line}\n")).collect()
}
