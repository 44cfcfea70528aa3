variable "account_id" {
  description = "Cloudflare's account id."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{32}$", var.account_id))
    error_message = "An account id has 32 lower-case hexadecimal digits."
  }
}

variable "name" {
  description = "Name of the bucket; also the beginning of the tokens' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "Give 3 to 63 of a-z, 0-9 and -, with a letter or digit at both ends."
  }
}

variable "location" {
  description = "Where the bucket should lie: apac, eeur, enam, weur, wnam or oc; near whoever applies when absent."
  type        = string
  default     = null
}

variable "expire_after_days" {
  description = <<-EOT
    Days after which objects are deleted; 0 keeps them. What the run needs of a miner's bucket is copied before the
    window closes: choose more than the longest window. A validator chooses 0, or loses its evaluations.
  EOT
  type        = number
  default     = 7

  validation {
    condition     = var.expire_after_days >= 0 && floor(var.expire_after_days) == var.expire_after_days
    error_message = "Give a whole number of days, or 0."
  }
}
