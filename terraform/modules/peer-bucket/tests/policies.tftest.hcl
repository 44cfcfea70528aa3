# `terraform init -backend=false && terraform test`: no account and no network are needed.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example-peer" }
  }
}

variables {
  name = "example-peer"
}

run "the_reader_only_reads" {
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_user_policy.this["reader"].policy).Statement :
      contains(["s3:GetObject", "s3:ListBucket"], statement.Action)
    ])
    error_message = "The reader's key does more than read."
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.peer.rule) == 1
    error_message = "Objects expire although nobody asked for it."
  }
}

run "the_owner_deletes_its_probes_only" {
  assert {
    condition = [
      for statement in jsondecode(aws_iam_user_policy.this["owner"].policy).Statement : statement.Resource
      if statement.Action == "s3:DeleteObject"
    ] == ["arn:aws:s3:::example-peer/probe/*"]
    error_message = "The owner's key deletes more than its probes."
  }
}

run "objects_expire_when_asked" {
  variables {
    expire_after_days = 14
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.peer.rule) == 2
    error_message = "There is no rule that expires objects."
  }
}
