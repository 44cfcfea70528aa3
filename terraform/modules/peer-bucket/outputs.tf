output "bucket" {
  description = "`bucket` and `region` of the section [bucket] of the participant's settings."
  value       = module.bucket.address
}

output "owner" {
  description = "The key of the section [bucket]: it writes."
  value       = local.keys["owner"]
  sensitive   = true
}

output "reader" {
  description = "The key of the section [bucket.reader]: it only reads."
  value       = local.keys["reader"]
  sensitive   = true
}

output "expires_after_days" {
  description = "For each lifecycle rule that deletes objects, after how many days."
  value       = module.bucket.expires_after_days
}

locals {
  keys = {
    for name, key in aws_iam_access_key.this : name => {
      access_key_id     = key.id
      secret_access_key = key.secret
    }
  }
}
