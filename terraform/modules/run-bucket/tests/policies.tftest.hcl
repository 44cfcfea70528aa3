# No account and no network are needed: the provider is a mock.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example-run" }
  }
}

variables {
  name         = "example-run"
  participants = { alice = "abababababababababababababababababababababababababababababababab" }
}

run "there_is_a_user_for_each_role_and_no_other" {
  assert {
    condition     = keys(aws_iam_user.this) == ["aggregator", "observer", "participant-alice"]
    error_message = "Users are missing, or there are too many."
  }
  assert {
    condition     = module.bucket.requires_tls
    error_message = "The bucket takes plain HTTP."
  }
  assert {
    condition     = module.bucket.expires_after_days == []
    error_message = "The run's objects expire."
  }
}

# Whole statements are compared, so that an action or a resource too many is found.
run "the_aggregator_writes_all_and_deletes_probes_and_the_index" {
  assert {
    condition = jsondecode(aws_iam_user_policy.this["aggregator"].policy).Statement == [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = "arn:aws:s3:::example-run" },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "arn:aws:s3:::example-run/*" },
      { Effect = "Allow", Action = ["s3:PutObject", "s3:AbortMultipartUpload"], Resource = "arn:aws:s3:::example-run/*" },
      { Effect = "Allow", Action = "s3:DeleteObject", Resource = [
        "arn:aws:s3:::example-run/probe/*", "arn:aws:s3:::example-run/data/dataset.json",
      ] },
    ]
    error_message = "The aggregator's key is not that of bucket-layout.md §10."
  }
}

run "participants_write_their_own_wish_only" {
  assert {
    condition = jsondecode(aws_iam_user_policy.this["participant-alice"].policy).Statement == [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = "arn:aws:s3:::example-run" },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "arn:aws:s3:::example-run/*" },
      { Effect = "Allow", Action = "s3:PutObject", Resource = "arn:aws:s3:::example-run/lobby/${var.participants.alice}.json" },
    ]
    error_message = "A participant's key does more than read, and write its wish to join."
  }
}

run "observers_only_read" {
  assert {
    condition = jsondecode(aws_iam_user_policy.this["observer"].policy).Statement == [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = "arn:aws:s3:::example-run" },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "arn:aws:s3:::example-run/*" },
    ]
    error_message = "The observer's key does more than read."
  }
}

run "each_policy_is_its_own_users" {
  assert {
    condition = alltrue([
      for name, policy in aws_iam_user_policy.this : policy.user == "example-run-${name}"
    ])
    error_message = "A policy hangs on another's user."
  }
  assert {
    condition     = keys(nonsensitive(output.participants)) == ["alice"]
    error_message = "The participants' keys are not by their names."
  }
}

run "an_id_that_is_none_is_refused" {
  command = plan
  variables {
    participants = { alice = "ABAB" }
  }
  expect_failures = [var.participants]
}

run "a_name_too_long_for_a_user_is_refused" {
  command = plan
  variables {
    participants = { alexandrine = "abababababababababababababababababababababababababababababababab" }
  }
  expect_failures = [var.participants]
}
