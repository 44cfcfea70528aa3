# No account and no network are needed: the provider is a mock.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example-peer" }
  }
}

variables {
  name = "example-peer"
}

# Whole statements are compared, so that an action or a resource too many is found.
run "the_reader_only_reads" {
  assert {
    condition = jsondecode(aws_iam_user_policy.this["reader"].policy).Statement == [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = "arn:aws:s3:::example-peer" },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "arn:aws:s3:::example-peer/*" },
    ]
    error_message = "The reader's key does more than read."
  }
}

run "the_owner_deletes_its_probes_only" {
  assert {
    condition = jsondecode(aws_iam_user_policy.this["owner"].policy).Statement == [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = "arn:aws:s3:::example-peer" },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "arn:aws:s3:::example-peer/*" },
      { Effect = "Allow", Action = ["s3:PutObject", "s3:AbortMultipartUpload"], Resource = "arn:aws:s3:::example-peer/*" },
      { Effect = "Allow", Action = "s3:DeleteObject", Resource = "arn:aws:s3:::example-peer/probe/*" },
    ]
    error_message = "The owner's key is not that of bucket-layout.md §10."
  }
}

run "each_policy_is_its_own_users" {
  assert {
    condition = alltrue([
      for name, policy in aws_iam_user_policy.this : policy.user == "example-peer-${name}"
    ])
    error_message = "A policy hangs on another's user."
  }
  assert {
    condition     = keys(aws_iam_user.this) == ["owner", "reader"]
    error_message = "Users are missing, or there are too many."
  }
}

run "old_updates_go_after_a_week_and_plain_http_is_refused" {
  assert {
    condition     = module.bucket.expires_after_days == [7]
    error_message = "Old updates do not go after a week."
  }
  assert {
    condition     = module.bucket.requires_tls
    error_message = "The bucket takes plain HTTP."
  }
}

run "a_validator_keeps_its_evaluations" {
  variables {
    expire_after_days = 0
  }
  assert {
    condition     = module.bucket.expires_after_days == []
    error_message = "Objects expire although nobody asked for it."
  }
}
