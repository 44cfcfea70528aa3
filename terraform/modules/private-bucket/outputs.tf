output "arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.this.arn
}

output "address" {
  description = "`bucket` and `region` of a section of a settings file."
  value       = { bucket = aws_s3_bucket.this.id, region = aws_s3_bucket.this.region }
}

output "expires_after_days" {
  description = "For each lifecycle rule that deletes objects, after how many days."
  value = flatten([
    for rule in aws_s3_bucket_lifecycle_configuration.this.rule : [for expiration in rule.expiration : expiration.days]
  ])
}

output "requires_tls" {
  description = "Whether there is a policy against plain HTTP."
  value       = length(aws_s3_bucket_policy.tls) == 1
}
