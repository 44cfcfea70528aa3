variable "name" {
  description = "Name of the run and of its bucket, worldwide unique. Every other bucket's name begins with it."
  type        = string
}

variable "miners" {
  description = "Who trains, with a bucket from you: a short name for each, and the id that `brigade identity show` prints."
  type        = map(string)
  default     = {}
}

variable "validators" {
  description = "Whose scores count, with a bucket from you: what `brigade identity show` prints, and a stake."
  type        = map(object({ id = string, seal_to = string, stake = optional(number, 1) }))
  default     = {}
}

variable "guests" {
  description = "Who brings a bucket of their own, and only needs a key to the run's: short name → id."
  type        = map(string)
  default     = {}

  validation {
    condition = length(setintersection(keys(var.guests), keys(var.miners))) == 0 && (
      length(setintersection(keys(var.guests), keys(var.validators))) == 0) && (
    length(setintersection(keys(var.miners), keys(var.validators))) == 0)
    error_message = "A name is used twice."
  }
  validation {
    condition     = !contains(concat(keys(var.guests), keys(var.miners), keys(var.validators)), "aggregator")
    error_message = "The name `aggregator` is the aggregator's."
  }
}

variable "run_id" {
  description = "What `brigade run create` prints. Empty until then."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9a-f]{64})?$", var.run_id))
    error_message = "A run's id has 64 lower-case hexadecimal digits."
  }
}

variable "terms" {
  description = "The tables of run.toml after [bucket] and [[validators]], as docs/configuration.md has them."
  type        = string
  default     = <<-EOT
    [model]
    preset = "150m"
  EOT
}

variable "expire_after_days" {
  description = "Days after which a miner's old updates go; 0 keeps them."
  type        = number
  default     = 7
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may delete buckets that still hold objects."
  type        = bool
  default     = false
}

variable "allow_private_endpoints" {
  description = "Whether participants follow peers to private addresses: only for an emulator or one network."
  type        = bool
  default     = false
}

variable "region" {
  description = "Where everything lies."
  type        = string
  default     = "us-east-1"
}

variable "endpoint" {
  description = "An emulator of Amazon's services, http(s)://host:port; Amazon itself when absent."
  type        = string
  default     = null
}

variable "dialect" {
  description = "Which S3 the endpoint speaks: aws, or minio for an emulator, which may be plain HTTP."
  type        = string
  default     = "aws"

  validation {
    condition     = contains(["aws", "minio", "ceph"], var.dialect)
    error_message = "A dialect is aws, minio or ceph."
  }
  validation {
    condition     = var.dialect != "aws" || !startswith(coalesce(var.endpoint, "-"), "http://")
    error_message = "The dialect aws speaks https only; give minio for an emulator."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
