variable "name" {
  description = "Name of the machine, its role and its parameters. Unique in the account and region."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{0,62}[a-z0-9]$", var.name))
    error_message = "Give 2 to 64 of a-z, 0-9 and -, with a letter or digit at both ends."
  }
}

variable "role" {
  description = "What the machine is to the run: miner, validator or aggregator."
  type        = string
  default     = "miner"

  validation {
    condition     = contains(["miner", "validator", "aggregator"], var.role)
    error_message = "A role is miner, validator or aggregator."
  }
}

variable "release" {
  description = "The release's tarball: where it is, and its SHA-256. With CUDA for a GPU."
  type        = object({ url = string, sha256 = string })

  validation {
    condition     = startswith(var.release.url, "https://") && can(regex("^[0-9a-f]{64}$", var.release.sha256))
    error_message = "Give an https:// URL and 64 lower-case hexadecimal digits."
  }
}

variable "settings" {
  description = <<-EOT
    The role's settings file. It lies in /etc/brigade, and paths in it are relative to there: identity = "identity.json",
    state = "/var/lib/brigade/ROLE", secrets as "file:NAME" with the names of `secrets`.
  EOT
  type        = string

  validation {
    condition     = length(var.settings) > 0 && length(var.settings) <= 4096
    error_message = "The settings have 1 to 4096 characters: a parameter holds no more."
  }
}

variable "secrets" {
  description = "File under /etc/brigade → content, for example \"secrets/run_secret\"."
  type        = map(string)
  sensitive   = true
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.secrets) : can(regex("^secrets/[a-z0-9][a-z0-9_.]*$", name))])
    error_message = "A secret's name is secrets/ and a-z, 0-9, _ and ."
  }
}

variable "identity" {
  description = <<-EOT
    Content of the identity file that `brigade identity new` made. Without one the machine makes its own at its first
    boot and prints the id to its console, so that the run's operator can make a key for it; see the README.
  EOT
  type        = string
  sensitive   = true
  default     = null
}

variable "instance_type" {
  description = "Type of the machine."
  type        = string
  default     = "g6e.xlarge"
}

variable "spot" {
  description = "Whether to pay the price of spare capacity, and be stopped when there is none."
  type        = bool
  default     = false
}

variable "spot_max_price" {
  description = "The most to pay for an hour of spare capacity, in US dollars; the on-demand price when absent."
  type        = string
  default     = null
}

variable "volume_gib" {
  description = "Size of the disk: system, state and token shards."
  type        = number
  default     = 200
}

variable "ami_id" {
  description = "Image. It needs cloud-init, systemd and curl, the AWS CLI or snap, and NVIDIA's driver for a GPU."
  type        = string
  default     = null
}

variable "ami_parameter" {
  description = "Without `ami_id`: the public parameter that names the newest image."
  type        = string
  default     = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
}

variable "vpc_id" {
  description = "Network; the account's default one when absent."
  type        = string
  default     = null
}

variable "subnet_id" {
  description = "Subnet of that network, with a way to the internet; any of the default network when absent."
  type        = string
  default     = null
}

variable "ssh_cidr" {
  description = "Addresses that may connect by SSH; nobody when absent."
  type        = string
  default     = null

  validation {
    condition     = var.ssh_cidr == null || (can(cidrhost(var.ssh_cidr, 0)) && !endswith(coalesce(var.ssh_cidr, "-"), "/0"))
    error_message = "Give a range such as 192.0.2.0/24; not the whole world."
  }
}

variable "ssh_key_name" {
  description = "Name of the EC2 key pair for SSH."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
