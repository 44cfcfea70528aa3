variable "name" {
  description = "Name of the bucket. Worldwide unique."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "Give 3 to 63 of a-z, 0-9 and -, with a letter or digit at both ends."
  }
}

variable "expire_after_days" {
  description = "Days after which objects are deleted; 0 keeps them."
  type        = number
  default     = 0

  validation {
    condition     = var.expire_after_days >= 0 && floor(var.expire_after_days) == var.expire_after_days
    error_message = "Give a whole number of days, or 0."
  }
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
  description = "Tags of the bucket."
  type        = map(string)
  default     = {}
}
