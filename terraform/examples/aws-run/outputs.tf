output "run_url" {
  description = "What `brigade join` takes; empty until there is a run_id."
  value       = local.run_url
}

output "run_toml" {
  description = "For `brigade data prepare` and `brigade run create`."
  value       = local.run_toml
}

output "aggregator_toml" {
  description = "The aggregator's settings."
  value       = local.settings.here["aggregator"]
}

output "miner_toml" {
  description = "Each miner's settings, by name."
  value       = { for name, _ in var.miners : name => local.settings.here[name] }
}

output "validator_toml" {
  description = "Each validator's settings, by name."
  value       = { for name, _ in var.validators : name => local.settings.here[name] }
}

output "files" {
  description = "All of the above and the keys: path → content. write-configs.sh writes them."
  value       = local.files
  sensitive   = true
}

output "observer" {
  description = "A key that reads the run's bucket, for whoever only watches."
  value       = module.run.observer
  sensitive   = true
}

output "instances" {
  description = "The machines, by name."
  value       = { for name, node in module.node : name => node.instance_id }
}
