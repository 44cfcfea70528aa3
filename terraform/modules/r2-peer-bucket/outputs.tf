output "bucket" {
  description = "The section [bucket] of the participant's settings, without the key."
  value = {
    dialect  = "r2"
    endpoint = "https://${var.account_id}.r2.cloudflarestorage.com"
    region   = "auto"
    bucket   = cloudflare_r2_bucket.peer.name
  }
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

# As Cloudflare derives S3 keys from a token.
locals {
  keys = {
    for name, token in cloudflare_account_token.this : name => {
      access_key_id     = token.id
      secret_access_key = sha256(token.value)
    }
  }
}
