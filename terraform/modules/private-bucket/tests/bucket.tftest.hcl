# No account and no network are needed: the provider is a mock.

mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example" }
  }
}

variables {
  name = "example"
}

run "nobody_gets_in_without_a_key" {
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "Public access is not blocked altogether."
  }
  assert {
    condition     = aws_s3_bucket_ownership_controls.this.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "ACLs count."
  }
  assert {
    condition = one(flatten([
      for rule in aws_s3_bucket_server_side_encryption_configuration.this.rule :
      rule.apply_server_side_encryption_by_default[*].sse_algorithm
    ])) == "AES256"
    error_message = "Objects are not encrypted by the store's own key."
  }
}

run "plain_http_is_refused" {
  assert {
    condition = jsondecode(aws_s3_bucket_policy.tls[0].policy).Statement == [{
      Sid       = "RefusePlainHttp"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::example", "arn:aws:s3:::example/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
    error_message = "The bucket's policy is not the one against plain HTTP."
  }
}

run "plain_http_is_allowed_for_an_emulator_only_when_asked" {
  variables {
    require_tls = false
  }
  assert {
    condition     = length(aws_s3_bucket_policy.tls) == 0
    error_message = "There is a policy although nobody asked for one."
  }
}

run "stale_uploads_are_aborted_and_objects_stay" {
  assert {
    condition = flatten([
      for rule in aws_s3_bucket_lifecycle_configuration.this.rule : [
        for abort in rule.abort_incomplete_multipart_upload : abort.days_after_initiation
      ] if rule.status == "Enabled"
    ]) == [1]
    error_message = "Uploads that were killed stay, and are paid for."
  }
  assert {
    condition     = output.expires_after_days == []
    error_message = "Objects expire although nobody asked for it."
  }
}

run "objects_expire_when_asked" {
  variables {
    expire_after_days = 14
  }
  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.status if rule.id == "expire"
    ] == ["Enabled"]
    error_message = "There is no rule that expires objects."
  }
  assert {
    condition     = output.expires_after_days == [14]
    error_message = "Objects do not expire after 14 days."
  }
}

run "half_a_day_is_refused" {
  command = plan
  variables {
    expire_after_days = 0.5
  }
  expect_failures = [var.expire_after_days]
}

run "a_name_that_no_store_takes_is_refused" {
  command = plan
  variables {
    name = "Not_A_Name"
  }
  expect_failures = [var.name]
}
