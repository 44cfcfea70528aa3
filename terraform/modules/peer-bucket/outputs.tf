output "bucket" {
  description = "`bucket` and `region` of the section [bucket] of the participant's settings."
  value       = { bucket = aws_s3_bucket.peer.id, region = aws_s3_bucket.peer.region }
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

locals {
  keys = {
    for name, key in aws_iam_access_key.this : name => {
      access_key_id     = key.id
      secret_access_key = key.secret
    }
  }
}
