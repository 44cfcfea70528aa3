//! What window 0 starts from: weights that are drawn, or those of a folder.

use std::path::Path;

use anyhow::Context as _;
use brigade_protocol::{ModelConfig, Parameters};

use crate::config::{ModelSection, RunSettings};
use crate::data::Progress;
use crate::folder::Folder;

/// The first model of a run, whose weights are not there yet.
#[derive(Debug)]
pub(super) enum Start {
    Drawn { model: ModelConfig, seed: [u8; 32] },
    Folder(Folder),
}

impl Start {
    /// Finds the model that `settings` name; `beside` is their folder.
    ///
    /// # Errors
    /// When the folder is none, or `initial_seed` is none or has nothing to do.
    pub(super) fn open(settings: &RunSettings, beside: &Path) -> anyhow::Result<Self> {
        match &settings.model {
            ModelSection::Shape(model) => {
                Ok(Self::Drawn { model: model.clone(), seed: seed(settings.initial_seed.as_deref())? })
            }
            ModelSection::From(path) => {
                anyhow::ensure!(
                    settings.initial_seed.is_none(),
                    "initial_seed draws no weights when model.from names some; leave one of them out"
                );
                Ok(Self::Folder(Folder::open(&beside.join(path)).context("model.from")?))
            }
        }
    }

    pub(super) fn model(&self) -> &ModelConfig {
        match self {
            Self::Drawn { model, .. } => model,
            Self::Folder(folder) => folder.model(),
        }
    }

    /// Checks that the run's tokens are those that the weights know.
    ///
    /// # Errors
    /// When the folder has another tokenizer than `json`, `data/tokenizer.json`.
    pub(super) fn check_tokenizer(&self, json: &[u8]) -> anyhow::Result<()> {
        let Self::Folder(folder) = self else { return Ok(()) };
        anyhow::ensure!(
            folder.tokenizer().context("model.from")?.has_tokens_of(json)?,
            "the data has other tokens than the model; prepare it with `brigade data prepare --replace --tokenizer {}`",
            folder.path().join("tokenizer.json").display()
        );
        Ok(())
    }

    /// Draws the weights, or reads them.
    ///
    /// # Errors
    /// Names the tensor that is missing, misshapen or no number's.
    pub(super) async fn theta(self, progress: Progress) -> anyhow::Result<Parameters> {
        let folder = match self {
            Self::Drawn { model, seed } => return Ok(Parameters::initialise(&model, &seed)),
            Self::Folder(folder) => folder,
        };
        let read = move || {
            let bar = progress.bytes("reading the first weights", folder.weights()?.bytes());
            let theta = folder.parameters(&|read| {
                bar.inc(read);
                Ok(())
            });
            bar.finish_and_clear();
            theta
        };
        tokio::task::spawn_blocking(read).await?.context("model.from")
    }
}

fn seed(text: Option<&str>) -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    match text {
        Some(text) => hex::decode_to_slice(text, &mut seed)
            .map_err(|_| anyhow::anyhow!("initial_seed must be 64 hexadecimal digits"))?,
        None => getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?,
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Encoder;
    use crate::folder;

    fn settings(head: &str, model: &str) -> RunSettings {
        let text = format!(
            "name = \"x\"\nidentity = \"i\"\n{head}\n[bucket]\nbucket = \"b\"\ndialect = \"aws\"\n[model]\n{model}"
        );
        toml::from_str(&text).unwrap()
    }

    fn encoder(vocab_size: u32) -> Encoder {
        let text = (0..300).map(|n| format!("the fox jumps {} times;\n", n * n)).collect();
        Encoder::train(vocab_size, vec![text]).unwrap()
    }

    #[tokio::test]
    async fn weights_of_a_folder_beside_the_settings_are_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let model =
            ModelConfig { vocab_size: 300, num_hidden_layers: 1, ..ModelConfig::preset("demo").unwrap() };
        let theta = Parameters::initialise(&model, &[1; 32]);
        std::fs::create_dir(dir.path().join("llama")).unwrap();
        for (file, bytes) in folder::files(&model, &theta, encoder(290).json(), 0).unwrap() {
            std::fs::write(dir.path().join("llama").join(file.to_string()), bytes).unwrap();
        }
        let start = Start::open(&settings("", "from = \"llama\""), dir.path()).unwrap();
        assert_eq!(start.model().num_parameters(), model.num_parameters());
        start.check_tokenizer(encoder(290).json()).unwrap();
        let error = start.check_tokenizer(encoder(280).json()).unwrap_err().to_string();
        assert!(error.contains("brigade data prepare") && error.contains("llama/tokenizer.json"), "{error}");
        assert_eq!(start.theta(Progress::hidden()).await.unwrap(), theta);
    }

    #[test]
    fn a_start_that_cannot_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let seed = format!("initial_seed = \"{}\"", "0".repeat(64));
        for (head, model, named) in [
            ("", "from = \"nowhere\"", "nowhere is no Hugging Face folder"),
            (&seed[..], "from = \"nowhere\"", "leave one of them out"),
            ("initial_seed = \"7\"", "preset = \"demo\"", "64 hexadecimal digits"),
        ] {
            let error = Start::open(&settings(head, model), dir.path()).unwrap_err();
            assert!(format!("{error:#}").contains(named), "{error:#}");
        }
    }
}
