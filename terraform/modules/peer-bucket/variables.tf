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
    Days after which objects are deleted; 0 keeps them. What the run needs of a miner's bucket is copied before the
    window closes: choose more than the longest window. A validator chooses 0, or loses its evaluations.
  EOT
  type        = number
  default     = 7
}

variable "require_tls" {
  description = "Whether the bucket refuses requests over plain HTTP. Turn it off only for an emulator that has no TLS."
  type        = bool
  default     = true
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
