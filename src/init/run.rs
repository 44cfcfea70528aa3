//! The terms of a run, with comments.

use std::path::Path;

use brigade_bucket::Dialect;
use brigade_protocol::ModelConfig;

use super::address::Known;
use super::ask::Ask;
use super::dialect::Recognise;
use super::keys::{Keys, Secrets, Which};
use super::participant::bucket_lines;
use super::{Made, create, expect_none, identity, quoted};

/// What is known of a run that is to be; what is not is asked.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What people call it.
    pub name: Option<String>,
    /// Its bucket's name.
    pub bucket: Option<String>,
    /// Its store; Amazon's when empty.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Key prefix.
    pub prefix: String,
    /// Which S3 its store speaks.
    pub dialect: Option<Dialect>,
    /// How a store is asked which.
    pub recognise: Recognise,
    /// References to the aggregator's key there.
    pub keys: [Option<String>; 2],
    /// A preset of a model's shape.
    pub preset: Option<String>,
}

impl Terms {
    /// Asks for what is missing, and writes `run.toml` and the aggregator's identity into `folder`.
    ///
    /// # Errors
    /// When there are no answers, one is no setting, or a file is there already.
    pub fn make(&self, folder: &Path, ask: &mut dyn Ask) -> anyhow::Result<Made> {
        let settings = folder.join("run.toml");
        expect_none(&settings)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ask.text("--name", "what the run is called", None)?,
        };
        let preset = match &self.preset {
            Some(preset) => preset.clone(),
            None => ask.choice(
                "--preset",
                "the model's shape",
                &ModelConfig::PRESETS,
                Some(ModelConfig::PRESETS[0]),
            )?,
        };
        let model = ModelConfig::preset(&preset);
        anyhow::ensure!(model.is_some(), "--preset {preset} is none of {}", ModelConfig::PRESETS.join(", "));
        let known = Known {
            question: "the run's bucket",
            bucket: self.bucket.as_deref(),
            endpoint: self.endpoint.as_deref(),
            region: self.region.as_deref(),
            prefix: &self.prefix,
            dialect: self.dialect,
            beside: None,
        };
        let bucket = known.find(self.recognise, ask)?;
        let mut secrets = Secrets::new(folder);
        let which = Which {
            of: "the run's bucket",
            option: "--bucket",
            variables: ["RUN_KEY_ID", "RUN_SECRET"],
            may_be_environment: true,
            not: None,
        };
        let keys = Keys::find(&which, &self.keys, ask, &mut secrets)?;
        std::fs::create_dir_all(folder)?;
        secrets.write()?;
        let identity = identity(&folder.join("identity.json"))?;
        let text = format!(
            "# Brigade: the terms of a run. What is left out has the values that trained Covenant-72B; docs/configuration.md has all.\n\
             # They are fixed once `brigade run create --config run.toml` has signed them.\n\n\
             name = {}\n\
             identity = \"identity.json\"      # the aggregator's; it signs the run\n\n\
             # The run's bucket, with a key that writes. `brigade data prepare --config run.toml` puts the text there first.\n\
             [bucket]\n{}\n\
             # Whose scores count: id and seal_to as `brigade identity show` prints them. No verdict without more than half of the stake.\n\
             # [[validators]]\n# id = \"…\"\n# seal_to = \"age1…\"\n# stake = 1\n\n\
             [model]\npreset = {}             # and what differs from it; or from = \"FOLDER\" of a Hugging Face model\n\n\
             # [training]\n# inner_steps = 30              # steps between two uploads\n# batch_size = 192\n\n\
             # [windows]\n# train_seconds = 1200          # the deadline after a window opens\n# start_peers = 4              # miners that window 0 waits for\n",
            quoted(&name),
            bucket_lines(&bucket, &keys),
            quoted(&preset),
        );
        create(&settings, &text)?;
        let vocabulary = model.map(|model| model.vocab_size);
        Ok(Made { settings, identity, variables: keys.unset(), vocabulary })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::ask::Silent;
    use super::*;
    use crate::config::RunSettings;

    #[test]
    fn terms_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let keys = [Some("env:A".to_owned()), Some("env:B".to_owned())];
        let terms = Terms {
            name: Some("first \"run\"".into()),
            bucket: Some("a-run".into()),
            endpoint: None,
            region: Some("eu-central-1".into()),
            prefix: String::new(),
            dialect: None,
            recognise: |_| Ok(None),
            keys,
            preset: Some("demo".into()),
        };
        let made = terms.make(folder.path(), &mut Silent).unwrap();
        assert_eq!(made.variables, ["A", "B"]);
        let settings = RunSettings::read(&made.settings).unwrap();
        assert_eq!(settings.name, "first \"run\"");
        assert_eq!(settings.training.sequence_length, 256, "the context of the preset `demo`");
        let address = settings.bucket.address("bucket").unwrap();
        assert_eq!((address.bucket.as_str(), address.region.as_str()), ("a-run", "eu-central-1"));
        assert_eq!((address.endpoint, address.dialect), (None, Dialect::Aws));
        let wrong = Terms { preset: Some("70b".into()), ..terms };
        let error = wrong.make(&folder.path().join("b"), &mut Silent).unwrap_err().to_string();
        assert!(error.contains("70b") && error.contains("demo"), "{error}");
    }
}
