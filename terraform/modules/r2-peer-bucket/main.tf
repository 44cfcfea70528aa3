# The bucket of one miner or validator on Cloudflare R2: a key that writes for its owner, and one that reads for the
# aggregator and the validators. Reading costs nothing there, however many read.

terraform {
  required_version = ">= 1.7"
  required_providers {
    cloudflare = {
      source = "cloudflare/cloudflare"
      # From 5.13 on a policy's resources are JSON.
      version = "~> 5.13"
    }
  }
}

resource "cloudflare_r2_bucket" "peer" {
  account_id = var.account_id
  name       = var.name
  location   = var.location
}

resource "cloudflare_r2_bucket_lifecycle" "peer" {
  account_id  = var.account_id
  bucket_name = cloudflare_r2_bucket.peer.name

  rules = concat(
    # What a killed upload leaves is invisible and is paid for.
    [{
      id                                 = "abort-stale-uploads"
      enabled                            = true
      conditions                         = { prefix = "" }
      abort_multipart_uploads_transition = { condition = { type = "Age", max_age = local.day } }
      delete_objects_transition          = null
    }],
    # Of all objects: the keys begin with a run's id, which nobody knows beforehand, and a filter has no wildcards.
    var.expire_after_days == 0 ? [] : [{
      id                                 = "expire"
      enabled                            = true
      conditions                         = { prefix = "" }
      abort_multipart_uploads_transition = null
      delete_objects_transition          = { condition = { type = "Age", max_age = var.expire_after_days * local.day } }
    }],
  )
}

data "cloudflare_account_api_token_permission_groups_list" "all" {
  account_id = var.account_id
  max_items  = 1000
}

locals {
  day = 24 * 60 * 60

  permissions = {
    for group in data.cloudflare_account_api_token_permission_groups_list.all.result : group.name => group.id
    if startswith(group.name, "Workers R2 Storage Bucket Item ")
  }

  # R2 tells reading from writing, and no more: the owner's key may also delete all that it writes, where
  # bucket-layout.md §10 asks for probes only. Nobody but the owner loses by that.
  tokens = {
    owner  = ["Workers R2 Storage Bucket Item Read", "Workers R2 Storage Bucket Item Write"]
    reader = ["Workers R2 Storage Bucket Item Read"]
  }
}

resource "cloudflare_account_token" "this" {
  for_each   = local.tokens
  account_id = var.account_id
  name       = "${var.name}-${each.key}"

  policies = [{
    effect            = "allow"
    permission_groups = [for name in each.value : { id = local.permissions[name] }]
    resources = jsonencode({
      "com.cloudflare.edge.r2.bucket.${var.account_id}_default_${cloudflare_r2_bucket.peer.name}" = "*"
    })
  }]
}
