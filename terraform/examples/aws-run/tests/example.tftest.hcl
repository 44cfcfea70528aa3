# No account and no network are needed: the provider is a mock, and so are keys and identities.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example", region = "eu-central-1" }
  }
  mock_resource "aws_iam_access_key" {
    defaults = { secret = "MARKED-SECRET" }
  }
  mock_data "aws_partition" {
    defaults = { dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_ssm_parameter" {
    defaults = { insecure_value = "ami-newest" }
  }
}

variables {
  name       = "example"
  region     = "eu-central-1"
  miners     = { alice = "abababababababababababababababababababababababababababababababab" }
  guests     = { gus = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd" }
  validators = { vera = { id = "efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef", seal_to = "age1vera" } }
}

run "settings_name_their_secrets_and_hold_none" {
  assert {
    condition = !strcontains(join("", concat(
      [output.run_toml, output.aggregator_toml], values(output.miner_toml), values(output.validator_toml)
    )), "MARKED")
    error_message = "A settings file holds a secret."
  }
  assert {
    condition = alltrue([
      for reference in flatten(regexall("file:(secrets/[a-z_]+)", output.miner_toml["alice"])) :
      contains(keys(nonsensitive(output.files)), "alice/${reference}")
    ])
    error_message = "The miner's settings name a file that is not written."
  }
  assert {
    condition     = length(regexall("\"file:secrets/", output.miner_toml["alice"])) == 6
    error_message = "A miner has three pairs of keys."
  }
}

run "there_is_a_file_for_everybody_and_everything" {
  assert {
    condition = keys(nonsensitive(output.files)) == [
      "aggregator/aggregator.toml", "aggregator/run.toml", "aggregator/secrets/run_key_id", "aggregator/secrets/run_secret",
      "alice/miner.toml", "alice/secrets/my_key_id", "alice/secrets/my_secret", "alice/secrets/reader_key_id",
      "alice/secrets/reader_secret", "alice/secrets/run_key_id", "alice/secrets/run_secret",
      "gus/secrets/run_key_id", "gus/secrets/run_secret",
      "vera/secrets/my_key_id", "vera/secrets/my_secret", "vera/secrets/reader_key_id",
      "vera/secrets/reader_secret", "vera/secrets/run_key_id", "vera/secrets/run_secret", "vera/validator.toml",
    ]
    error_message = "A file is missing, or there is one too many."
  }
  assert {
    condition     = nonsensitive(output.files)["alice/secrets/my_secret"] == "MARKED-SECRET"
    error_message = "A key's file does not hold the key."
  }
  # The mock makes the ids up: each key is in the file of its own use.
  assert {
    condition = [
      for file in ["run_key_id", "my_key_id", "reader_key_id"] : nonsensitive(output.files)["alice/secrets/${file}"]
      ] == nonsensitive([
        module.run.participants["alice"].access_key_id, module.peer["alice"].owner.access_key_id,
        module.peer["alice"].reader.access_key_id,
    ])
    error_message = "A key is in another's file."
  }
  assert {
    condition     = strcontains(output.run_toml, "id = \"${var.validators.vera.id}\"") && strcontains(output.run_toml, "preset = \"150m\"")
    error_message = "The run's terms lack its validator or its model."
  }
}

run "a_validators_evaluations_stay" {
  assert {
    condition     = module.peer["alice"].expires_after_days == [7] && module.peer["vera"].expires_after_days == []
    error_message = "A miner's updates stay, or a validator's evaluations go."
  }
}

run "no_machines_unless_asked" {
  assert {
    condition     = length(module.node) == 0
    error_message = "There are machines although nobody asked for any."
  }
}

run "on_amazon_settings_have_no_endpoint_and_buckets_refuse_plain_http" {
  assert {
    condition     = !strcontains(output.miner_toml["alice"], "endpoint") && strcontains(output.miner_toml["alice"], "dialect = \"aws\"")
    error_message = "The settings are not for Amazon."
  }
  assert {
    condition     = local.require_tls
    error_message = "Buckets take plain HTTP."
  }
}

run "an_emulators_endpoint_is_in_the_settings" {
  variables {
    endpoint = "http://127.0.0.1:5000"
    dialect  = "minio"
  }
  assert {
    condition = alltrue([
      for settings in [output.run_toml, output.aggregator_toml, output.miner_toml["alice"], output.validator_toml["vera"]] :
      strcontains(settings, "dialect = \"minio\"\nendpoint = \"http://127.0.0.1:5000\"\n")
    ])
    error_message = "The settings lead to Amazon."
  }
  assert {
    condition     = !local.require_tls
    error_message = "Buckets refuse an emulator without TLS."
  }
}

run "without_a_run_nobody_has_an_id" {
  assert {
    condition     = output.run_url == "" && length(regexall("(?m)^run_id", output.miner_toml["alice"])) == 0
    error_message = "There is an id of a run that was not created."
  }
}

run "with_a_run_everybody_has_its_id" {
  variables {
    run_id = "0101010101010101010101010101010101010101010101010101010101010101"
  }
  assert {
    condition     = output.run_url == "s3://${module.run.bucket.bucket}?region=eu-central-1#${var.run_id}"
    error_message = "The run's URL is not the one that `brigade join` takes."
  }
  assert {
    condition = alltrue([
      for settings in [output.aggregator_toml, output.miner_toml["alice"], output.validator_toml["vera"]] :
      strcontains(settings, "\nrun_id = \"${var.run_id}\"\n")
    ])
    error_message = "Somebody does not know the run."
  }
}

run "machines_have_their_own_settings_and_only_miners_are_on_spare_capacity" {
  variables {
    nodes           = true
    run_id          = "0101010101010101010101010101010101010101010101010101010101010101"
    identity_folder = "tests/identities"
    gpu_release     = { url = "https://example.org/cuda.tar.gz", sha256 = "abababababababababababababababababababababababababababababababab" }
    cpu_release     = { url = "https://example.org/cpu.tar.gz", sha256 = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd" }
  }
  assert {
    condition     = keys(module.node) == ["aggregator", "alice", "vera"]
    error_message = "Somebody has no machine, or a guest has one."
  }
  assert {
    condition     = strcontains(local.settings.node["alice"], "state = \"/var/lib/brigade/miner\"")
    error_message = "A machine's state lies beside its settings."
  }
  assert {
    condition     = { for name, node in merge(local.with_gpu, local.without_gpu) : name => node.spot } == { aggregator = false, alice = true, vera = false }
    error_message = "Others than miners are on spare capacity."
  }
  assert {
    condition     = contains(module.node["alice"].parameters, "/brigade/example-alice/identity.json")
    error_message = "A machine has not its identity."
  }
}

run "machines_without_a_run_are_refused" {
  command = plan
  variables {
    nodes = true
  }
  expect_failures = [var.nodes]
}

run "a_name_used_twice_is_refused" {
  command = plan
  variables {
    guests = { alice = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd" }
  }
  expect_failures = [var.guests]
}

run "plain_http_to_amazon_is_refused" {
  command = plan
  variables {
    endpoint = "http://127.0.0.1:5000"
  }
  expect_failures = [var.dialect]
}
