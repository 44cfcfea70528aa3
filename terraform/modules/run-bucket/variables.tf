variable "name" {
  description = "Name of the bucket. Worldwide unique; also the beginning of the users' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,40}[a-z0-9]$", var.name))
    error_message = "Give 3 to 42 of a-z, 0-9 and -, with a letter or digit at both ends."
  }
}

variable "participants" {
  description = "Miners and validators: a short name for each, and its id as `brigade identity show` prints it."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.participants) : can(regex("^[a-z0-9-]{1,9}$", name))])
    error_message = "A participant's name has 1 to 9 of a-z, 0-9 and -: a user's name ends at 64 characters."
  }

  validation {
    condition     = alltrue([for peer in values(var.participants) : can(regex("^[0-9a-f]{64}$", peer))])
    error_message = "A participant's id has 64 lower-case hexadecimal digits."
  }
}

variable "require_tls" {
  description = "Whether the bucket refuses requests over plain HTTP. Turn it off only for an emulator that has no TLS."
  type        = bool
  default     = true
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may delete a bucket that still holds a run."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of the bucket and of the users."
  type        = map(string)
  default     = {}
}
