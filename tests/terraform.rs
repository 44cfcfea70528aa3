//! The Terraform example against moto: what comes out of it carries a run.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use brigade::identity::Identity;
use support::brigade;
use support::moto::Moto;

const NAMES: [&str; 4] = ["aggregator", "alice", "bob", "vera"];

/// The example in a folder of its own, against a server.
struct Example {
    terraform: &'static str,
    folder: PathBuf,
    work: PathBuf,
}

impl Example {
    /// A copy of `terraform/`, and the variables of a run with two miners and a validator.
    fn new(terraform: &'static str, work: &Path, endpoint: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform");
        let copied = Command::new("cp").arg("-R").arg(source).arg(work).status().unwrap();
        assert!(copied.success());
        let folder = work.join("terraform/examples/aws-run");
        let identity = |name: &str| Identity::load(&work.join(name).join("identity.json")).unwrap();
        let variables = serde_json::json!({
            "name": "e2e-run",
            "endpoint": endpoint,
            "dialect": "minio",
            "allow_private_endpoints": true,
            "force_destroy": true,
            "miners": { "alice": identity("alice").id(), "bob": identity("bob").id() },
            "guests": {},
            "validators": { "vera": { "id": identity("vera").id(), "seal_to": identity("vera").seal_to(), "stake": 1 } },
            "terms": "[model]\nvocab_size = 512\nhidden_size = 64\nintermediate_size = 128\nnum_hidden_layers = 2\n\
                      num_attention_heads = 4\nnum_key_value_heads = 2\nmax_position_embeddings = 64\n\
                      tie_word_embeddings = true\n\n[training]\ninner_steps = 2\nbatch_size = 2\nsequence_length = 32\n\
                      warmup_steps = 2\n\n\
                      [windows]\ntotal = 2\ntrain_seconds = 60\nscore_seconds = 30\nstart_peers = 2\n\n\
                      [scoring]\nsequences = 4\nheldout_sequences = 8\n\
                      # What two steps teach is about nothing, and by chance far less than what others learnt: not what\n\
                      # this run is about.\nharm_sigmas = 6.0\nleast_merit = 0.0\nnewcomer_merit = 0.0\n",
        });
        std::fs::write(folder.join("test.tfvars.json"), variables.to_string()).unwrap();
        Self { terraform, folder, work: work.to_owned() }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.terraform);
        command.arg(format!("-chdir={}", self.folder.display())).args(arguments);
        if let Some(mirror) = mirror() {
            let rc = self.work.join("terraformrc");
            let text = format!(
                "provider_installation {{\n  filesystem_mirror {{\n    path = \"{}\"\n    include = [\"*/*/*\"]\n  }}\n}}\n",
                mirror.display()
            );
            std::fs::write(&rc, text).unwrap();
            command.env("TF_CLI_CONFIG_FILE", rc);
        } else {
            command.env_remove("TF_CLI_CONFIG_FILE");
        }
        command.envs([
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("CHECKPOINT_DISABLE", "1"),
            ("TF_IN_AUTOMATION", "1"),
        ]);
        command.envs([("AWS_ACCESS_KEY_ID", "fake"), ("AWS_SECRET_ACCESS_KEY", "fake")]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "terraform {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn change(&self, verb: &str, more: &[&str]) {
        let fixed = [verb, "-auto-approve", "-input=false", "-no-color", "-var-file=test.tfvars.json"];
        self.run(&[&fixed[..], more].concat());
    }

    /// Writes everybody's settings and keys, as `write-configs.sh` does.
    fn write(&self) {
        let files: BTreeMap<String, String> =
            serde_json::from_str(&self.run(&["output", "-json", "files"])).unwrap();
        for (path, content) in files {
            let path = self.work.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            // As write-configs.sh does it, which needs jq.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// A folder of providers, as `scripts/terraform.sh` finds it.
fn mirror() -> Option<PathBuf> {
    if let Some(mirror) = std::env::var_os("BRIGADE_TF_MIRROR") {
        return Some(mirror.into());
    }
    let folders = std::fs::read_dir("/opt").ok()?.flatten();
    let mut mirrors = folders.map(|folder| folder.path()).filter(|folder| {
        let hosts = std::fs::read_dir(folder).into_iter().flatten().flatten();
        hosts.map(|host| host.path()).any(|host| host.join("hashicorp/aws").is_dir())
    });
    mirrors.next()
}

fn start(work: &Path, role: &str, name: &str) -> Child {
    let log = std::fs::File::create(work.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args([role, "--config"]).arg(work.join(name).join(format!("{role}.toml")));
    command.envs([("BRIGADE_POLL_MILLISECONDS", "50")]);
    if role != "aggregator" {
        command.env("BRIGADE_COMPUTE__THREADS", "1");
    }
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

#[test]
fn a_run_on_what_the_example_makes() {
    let works =
        |name: &&str| Command::new(name).arg("version").output().is_ok_and(|output| output.status.success());
    let Some(terraform) = ["terraform", "tofu"].into_iter().find(works) else {
        eprintln!("skipped: neither terraform nor tofu is installed, so the example was not applied");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path();
    for name in NAMES {
        std::fs::create_dir(work.join(name)).unwrap();
        brigade(&["identity", "new", "--out"], &[&work.join(name).join("identity.json")]);
    }
    let moto = Moto::start();
    let example = Example::new(terraform, work, &moto.endpoint);
    example.run(&["init", "-input=false", "-no-color"]);
    example.change("apply", &[]);
    example.write();
    moto.enforce(true);

    let run_toml = work.join("aggregator/run.toml");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/protocol/src");
    let prepare = ["data", "prepare", "--train-bpe", "512", "--heldout-fraction", "0.2", "--input"];
    brigade(&prepare, &[&sources, Path::new("--config"), &run_toml]);
    let created: serde_json::Value =
        serde_json::from_str(&brigade(&["run", "create", "--config"], &[&run_toml])).unwrap();
    let run_id = created["run_id"].as_str().unwrap();
    moto.enforce(false);
    example.change("apply", &["-var", &format!("run_id={run_id}")]);
    example.write();
    assert_eq!(example.run(&["output", "-raw", "run_url"]), created["run_url"].as_str().unwrap());
    moto.enforce(true);

    let roles = [("aggregator", "aggregator"), ("miner", "alice"), ("miner", "bob"), ("validator", "vera")];
    for (role, name) in roles {
        let config = work.join(name).join(format!("{role}.toml"));
        let said = brigade(&["doctor", "--line-mib", "1", "--config"], &[&config]);
        assert!(said.contains("nothing is wrong"), "{name}:\n{said}");
    }
    let mut children: Vec<Child> = roles.iter().map(|(role, name)| start(work, role, name)).collect();
    for (child, (_, name)) in children.iter_mut().zip(roles) {
        let log = || std::fs::read_to_string(work.join(format!("{name}.log"))).unwrap();
        assert!(child.wait().unwrap().success(), "{name}: {}", log());
    }
    let seen = brigade(&["watch", "--json", "--once", "--config"], &[&work.join("alice/miner.toml")]);
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let merged: Vec<u64> =
        seen["history"].as_array().unwrap().iter().map(|line| line["merged"].as_u64().unwrap()).collect();
    assert_eq!(merged, [2, 2], "{seen}");

    moto.enforce(false);
    example.change("destroy", &[]);
    assert_eq!(example.run(&["state", "list"]), "");
}
