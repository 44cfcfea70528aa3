variable "name" {
  description = "Name of the bucket. Worldwide unique; also the beginning of the users' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,50}[a-z0-9]$", var.name))
    error_message = "Give 3 to 52 of a-z, 0-9 and -, with a letter or digit at both ends."
  }
}

variable "expire_after_days" {
  description = <<-EOT
    Days after which objects are deleted; 0 keeps them. A miner may set it: what the run needs of its bucket is copied
    before the window closes. Choose more than the longest window. A validator that sets it loses its evaluations.
  EOT
  type        = number
  default     = 0

  validation {
    condition     = var.expire_after_days >= 0 && floor(var.expire_after_days) == var.expire_after_days
    error_message = "Give a whole number of days, or 0."
  }
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may delete a bucket that still holds objects."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of the bucket and of the users."
  type        = map(string)
  default     = {}
}
