//! What the trained model writes.

use std::path::Path;

use anyhow::Context as _;
use brigade_trainer::GenerateOptions;

use crate::config::Participant;
use crate::data::Encoder;
use crate::roles::model::Model;
use crate::run::{Run, checkpoint};

/// How the sample begins.
const PROMPT: &str = "    pub fn new(";

/// Lets the newest checkpoint of `run` go on from a prompt; `folder` holds its tokenizer.
pub(super) async fn write(run: &Run, settings: &Participant, folder: &Path) -> anyhow::Result<String> {
    let encoder = Encoder::load(&folder.join("tokenizer.json"), None)?;
    let prompt = encoder.encode(&[PROMPT.to_owned()])?.pop().context("an empty prompt")?;
    // The encoder ends every document; a prompt goes on.
    let end = encoder.end_of_document();
    let prompt: Vec<u32> = prompt.into_iter().take_while(|token| *token != end).collect();
    let theta = checkpoint::fetch_theta(run, &checkpoint::latest(run).await?.record).await?;
    let model = Model::start(run.manifest(), &settings.compute).await?;
    let options =
        GenerateOptions { max_new_tokens: 120, stop_tokens: vec![end], ..GenerateOptions::default() };
    let from = prompt.clone();
    let written = model.call(move |trainer| {
        trainer.load_parameters(theta.tensors())?;
        trainer.generate(&from, &options)
    });
    let written = written.await??;
    Ok(encoder.decode(&[prompt, written].concat())?)
}
