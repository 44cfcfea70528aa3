# What `brigade` reads. A key is never in a settings file, but in a file of its own that the settings name.

locals {
  roles = merge(
    { for name, _ in var.miners : name => "miner" },
    { for name, _ in var.validators : name => "validator" },
    { aggregator = "aggregator" },
  )

  run_address = merge(module.run.bucket, { dialect = var.dialect, endpoint = var.endpoint })
  own_address = { for name, peer in module.peer : name => merge(peer.bucket, { dialect = var.dialect, endpoint = var.endpoint }) }

  # As Brigade writes it: what is Amazon's default is left out.
  query = join("&", [
    for pair in [["endpoint", coalesce(var.endpoint, "-"), "-"], ["region", module.run.bucket.region, "us-east-1"], ["dialect", var.dialect, "aws"]] :
    "${pair[0]}=${urlencode(pair[1])}" if pair[1] != pair[2]
  ])
  run_url = var.run_id == "" ? "" : "s3://${module.run.bucket.bucket}${local.query == "" ? "" : "?"}${local.query}#${var.run_id}"

  run_toml = templatefile("${path.module}/templates/run.toml.tftpl", {
    name       = var.name
    bucket     = local.run_address
    validators = var.validators
    terms      = var.terms
  })

  # The same on the machine of whoever applies and on a node, but for the folder of the state.
  settings = {
    for place, states in {
      here = { for name, _ in local.roles : name => "state" }
      node = { for name, role in local.roles : name => "/var/lib/brigade/${role}" }
      } : place => {
      for name, role in local.roles : name => templatefile("${path.module}/templates/participant.toml.tftpl", {
        role                    = role
        state                   = states[name]
        run_id                  = var.run_id
        allow_private_endpoints = var.allow_private_endpoints
        run                     = local.run_address
        own                     = try(local.own_address[name], null)
      })
    }
  }

  run_keys = merge(module.run.participants, { aggregator = module.run.aggregator })
  secrets = {
    for name in concat(keys(local.roles), keys(var.guests)) : name => merge(
      {
        "secrets/run_key_id" = local.run_keys[name].access_key_id
        "secrets/run_secret" = local.run_keys[name].secret_access_key
      },
      !contains(keys(local.own_address), name) ? {} : {
        "secrets/my_key_id"     = module.peer[name].owner.access_key_id
        "secrets/my_secret"     = module.peer[name].owner.secret_access_key
        "secrets/reader_key_id" = module.peer[name].reader.access_key_id
        "secrets/reader_secret" = module.peer[name].reader.secret_access_key
      },
    )
  }

  files = merge(
    { "aggregator/run.toml" = local.run_toml },
    { for name, role in local.roles : "${name}/${role}.toml" => local.settings.here[name] },
    merge([
      for name, files in local.secrets : { for file, content in files : "${name}/${file}" => content }
    ]...),
  )
}
