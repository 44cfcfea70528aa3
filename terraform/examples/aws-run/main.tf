# A run on Amazon: its bucket, a bucket for every miner and validator, the keys to them, ready settings for everybody,
# and machines if wanted.

terraform {
  # Validation of one variable by another.
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

# With `endpoint` everything goes to an emulator, which knows no account and no machine's credentials.
provider "aws" {
  region                      = var.region
  s3_use_path_style           = var.endpoint != null
  skip_credentials_validation = var.endpoint != null
  skip_metadata_api_check     = var.endpoint != null
  skip_requesting_account_id  = var.endpoint != null

  dynamic "endpoints" {
    for_each = var.endpoint == null ? [] : [var.endpoint]
    content {
      ec2 = endpoints.value
      iam = endpoints.value
      s3  = endpoints.value
      ssm = endpoints.value
      sts = endpoints.value
    }
  }
}

locals {
  validator_ids = { for name, validator in var.validators : name => validator.id }
  ids           = merge(var.guests, var.miners, local.validator_ids)
  require_tls   = !startswith(coalesce(var.endpoint, "https://"), "http://")
}

module "run" {
  source        = "../../modules/run-bucket"
  name          = var.name
  participants  = local.ids
  require_tls   = local.require_tls
  force_destroy = var.force_destroy
  tags          = var.tags
}

module "peer" {
  source   = "../../modules/peer-bucket"
  for_each = merge(var.miners, local.validator_ids)
  name     = "${var.name}-${each.key}"
  # A validator's evaluations are nowhere else.
  expire_after_days = contains(keys(var.miners), each.key) ? var.expire_after_days : 0
  require_tls       = local.require_tls
  force_destroy     = var.force_destroy
  tags              = var.tags
}
