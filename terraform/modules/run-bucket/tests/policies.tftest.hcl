# `terraform init -backend=false && terraform test`: no account and no network are needed.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example-run" }
  }
}

variables {
  name         = "example-run"
  participants = { alice = "abababababababababababababababababababababababababababababababab" }
}

run "participants_write_their_own_wish_only" {
  assert {
    condition = [
      for statement in jsondecode(aws_iam_user_policy.this["participant-alice"].policy).Statement : statement.Resource
      if !contains(["s3:GetObject", "s3:ListBucket"], statement.Action)
    ] == ["arn:aws:s3:::example-run/lobby/${var.participants.alice}.json"]
    error_message = "A participant's key writes more than its wish to join."
  }
}

run "observers_only_read" {
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_user_policy.this["observer"].policy).Statement :
      contains(["s3:GetObject", "s3:ListBucket"], statement.Action)
    ])
    error_message = "The observer's key does more than read."
  }
}

run "an_id_that_is_none_is_refused" {
  command = plan
  variables {
    participants = { alice = "ABAB" }
  }
  expect_failures = [var.participants]
}
