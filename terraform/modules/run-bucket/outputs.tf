output "bucket" {
  description = "`bucket` and `region` of the section [run] or [bucket] of a settings file."
  value       = module.bucket.address
}

output "aggregator" {
  description = "The key of the aggregator, and of `brigade run create` and `brigade data prepare`."
  value       = local.keys["aggregator"]
  sensitive   = true
}

output "observer" {
  description = "A key that reads everything and writes nothing."
  value       = local.keys["observer"]
  sensitive   = true
}

output "participants" {
  description = "A key for each participant, by its short name."
  value       = { for name, _ in var.participants : name => local.keys["participant-${name}"] }
  sensitive   = true
}

locals {
  keys = {
    for name, key in aws_iam_access_key.this : name => {
      access_key_id     = key.id
      secret_access_key = key.secret
    }
  }
}
