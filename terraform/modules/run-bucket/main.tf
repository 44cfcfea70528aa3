# The run's bucket, and a key for everybody who touches it. The permissions are those of bucket-layout.md §10.

terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

module "bucket" {
  source        = "../private-bucket"
  name          = var.name
  require_tls   = var.require_tls
  force_destroy = var.force_destroy
  tags          = var.tags
}

locals {
  arn = module.bucket.arn

  # Listing must not be narrowed to a prefix: without it S3 answers 403, not 404, for an object that is not there yet.
  read = [
    { Effect = "Allow", Action = "s3:ListBucket", Resource = local.arn },
    { Effect = "Allow", Action = "s3:GetObject", Resource = "${local.arn}/*" },
  ]

  # Who gets which policy. A participant's writes end at its own wish to join.
  policies = merge(
    {
      aggregator = concat(local.read, [
        { Effect = "Allow", Action = ["s3:PutObject", "s3:AbortMultipartUpload"], Resource = "${local.arn}/*" },
        { Effect = "Allow", Action = "s3:DeleteObject", Resource = ["${local.arn}/probe/*", "${local.arn}/data/dataset.json"] },
      ])
      observer = local.read
    },
    {
      for name, peer in var.participants : "participant-${name}" => concat(local.read, [
        { Effect = "Allow", Action = "s3:PutObject", Resource = "${local.arn}/lobby/${peer}.json" },
      ])
    },
  )
}

resource "aws_iam_user" "this" {
  for_each = local.policies
  name     = "${var.name}-${each.key}"
  path     = "/brigade/"
  tags     = var.tags
}

resource "aws_iam_user_policy" "this" {
  for_each = local.policies
  name     = "bucket"
  user     = aws_iam_user.this[each.key].name
  policy   = jsonencode({ Version = "2012-10-17", Statement = each.value })
}

resource "aws_iam_access_key" "this" {
  for_each = local.policies
  user     = aws_iam_user.this[each.key].name
}
