output "instance_id" {
  description = "The machine."
  value       = aws_instance.this.id
}

output "parameters" {
  description = "Names of the parameters that the machine reads."
  value       = concat(values(aws_ssm_parameter.plain)[*].name, values(aws_ssm_parameter.secret)[*].name)
}
