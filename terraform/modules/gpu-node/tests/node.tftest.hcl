# No account and no network are needed: the provider is a mock.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_ssm_parameter" {
    defaults = { insecure_value = "ami-newest" }
  }
}

variables {
  name     = "example-alice"
  settings = "identity = \"identity.json\""
  release = {
    url    = "https://example.org/brigade-1-x86_64-linux-cuda.tar.gz"
    sha256 = "abababababababababababababababababababababababababababababababab"
  }
  secrets  = { "secrets/run_secret" = "MARKED-SECRET" }
  identity = "{\"signing_key\": \"MARKED-IDENTITY\"}"
}

run "nobody_gets_in" {
  assert {
    condition     = length(aws_security_group.this.ingress) == 0
    error_message = "There is a way in although nobody asked for one."
  }
  assert {
    condition     = aws_instance.this.metadata_options[0].http_tokens == "required"
    error_message = "The metadata service answers without a session token."
  }
  assert {
    condition     = aws_instance.this.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "A session token travels beyond the machine."
  }
}

run "ssh_is_open_to_whom_it_was_given" {
  variables {
    ssh_cidr = "192.0.2.0/24"
  }
  assert {
    condition = [
      for rule in aws_security_group.this.ingress : "${rule.from_port}-${rule.to_port} ${join(",", rule.cidr_blocks)}"
    ] == ["22-22 192.0.2.0/24"]
    error_message = "SSH is closed, or more than SSH is open."
  }
}

run "ssh_is_never_open_to_the_world" {
  command = plan
  variables {
    ssh_cidr = "0.0.0.0/0"
  }
  expect_failures = [var.ssh_cidr]
}

run "user_data_holds_no_secret" {
  assert {
    condition     = !strcontains(local.user_data, "MARKED") && !strcontains(aws_instance.this.user_data, "MARKED")
    error_message = "User data holds a secret."
  }
  assert {
    condition     = aws_instance.this.user_data == local.user_data && aws_ssm_parameter.plain["files"].value == "settings identity.json secrets/run_secret"
    error_message = "The machine does not fetch its secrets."
  }
  assert {
    condition     = length(local.user_data) < 16384
    error_message = "User data ends at 16 KiB."
  }
}

run "secrets_are_encrypted_and_the_role_reads_just_these" {
  # The mock makes ARNs up: the policy must have those, and no more.
  assert {
    condition     = alltrue([for parameter in aws_ssm_parameter.secret : parameter.type == "SecureString"])
    error_message = "A secret lies in the Parameter Store in clear."
  }
  assert {
    condition     = keys(aws_ssm_parameter.secret) == ["identity.json", "secrets/run_secret"]
    error_message = "A secret has no parameter."
  }
  assert {
    condition = jsondecode(aws_iam_role_policy.this.policy).Statement == [{
      Effect = "Allow"
      Action = "ssm:GetParameter"
      Resource = concat(
        values(aws_ssm_parameter.plain)[*].arn,
        [aws_ssm_parameter.secret["identity.json"].arn, aws_ssm_parameter.secret["secrets/run_secret"].arn],
      )
    }]
    error_message = "The machine's role reads more than its own parameters, or less."
  }
}

run "a_machine_without_an_identity_makes_its_own" {
  variables {
    identity = null
  }
  assert {
    condition     = keys(aws_ssm_parameter.secret) == ["secrets/run_secret"]
    error_message = "There is an identity although none was given."
  }
  assert {
    condition     = strcontains(local.boot, "brigade identity new --out")
    error_message = "The machine makes no identity."
  }
}

run "the_release_is_checked_and_the_role_survives_a_reboot" {
  variables {
    role = "validator"
  }
  assert {
    condition     = aws_ssm_parameter.plain["release"].value == "${var.release.sha256} ${var.release.url}"
    error_message = "The release comes without its checksum."
  }
  assert {
    condition     = strcontains(local.boot, "sha256sum --check") && strcontains(local.boot, "systemctl enable \"$unit\"")
    error_message = "The release is not checked, or the role not enabled."
  }
  assert {
    condition     = strcontains(local.boot, "role=validator") && strcontains(local.boot, "brigade doctor --config")
    error_message = "It is another role, or is not examined before it starts."
  }
}

run "the_disk_is_encrypted" {
  assert {
    condition     = aws_instance.this.root_block_device[0].encrypted && aws_instance.this.root_block_device[0].volume_type == "gp3"
    error_message = "The disk is not an encrypted gp3 one."
  }
  assert {
    condition     = aws_instance.this.root_block_device[0].volume_size == 200
    error_message = "The disk has not its default size."
  }
}

run "on_demand_unless_asked" {
  assert {
    condition     = length(aws_instance.this.instance_market_options) == 0 && aws_instance.this.instance_type == "g6e.xlarge"
    error_message = "The machine is not an on-demand one of the default type."
  }
}

run "spot_stops_and_comes_back" {
  variables {
    spot = true
  }
  assert {
    condition     = aws_instance.this.instance_market_options[0].market_type == "spot"
    error_message = "The machine is no spot instance."
  }
  assert {
    condition = aws_instance.this.instance_market_options[0].spot_options[0].spot_instance_type == "persistent" && (
    aws_instance.this.instance_market_options[0].spot_options[0].instance_interruption_behavior == "stop")
    error_message = "An interruption takes the disk away."
  }
}

run "a_release_without_a_checksum_is_refused" {
  command = plan
  variables {
    release = { url = "https://example.org/brigade.tar.gz", sha256 = "" }
  }
  expect_failures = [var.release]
}

run "a_secret_stays_in_its_folder" {
  command = plan
  variables {
    secrets = { "secrets/../settings" = "" }
  }
  expect_failures = [var.secrets]
}
