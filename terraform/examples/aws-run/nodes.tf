# A machine for each miner and validator, and one for the aggregator.

locals {
  with_gpu = var.nodes ? merge(
    { for name, _ in var.miners : name => { role = "miner", type = var.miner_instance_type, spot = var.spot } },
    { for name, _ in var.validators : name => { role = "validator", type = var.validator_instance_type, spot = false } },
  ) : {}
  # It computes no gradients: a processor is enough.
  without_gpu = var.nodes && var.aggregator_node ? {
    aggregator = { role = "aggregator", type = var.aggregator_instance_type, spot = false }
  } : {}

  # Made by `brigade identity new` before anything was applied: the buckets' keys are made for these ids.
  identities = {
    for name in concat(keys(local.with_gpu), keys(local.without_gpu)) : name =>
    sensitive(file("${var.identity_folder}/${name}/identity.json"))
  }
}

module "node" {
  source   = "../../modules/gpu-node"
  for_each = merge(local.with_gpu, local.without_gpu)

  name          = "${var.name}-${each.key}"
  role          = each.value.role
  instance_type = each.value.type
  spot          = each.value.spot
  volume_gib    = var.volume_gib
  ami_id        = var.ami_id
  ssh_cidr      = var.ssh_cidr
  ssh_key_name  = var.ssh_key_name
  release       = contains(keys(local.with_gpu), each.key) ? var.gpu_release : var.cpu_release
  settings      = local.settings.node[each.key]
  secrets       = local.secrets[each.key]
  identity      = local.identities[each.key]
  tags          = var.tags
}
