variable "nodes" {
  description = "Whether to start machines. They need a run: `run_id`, and identities in `identity_folder`."
  type        = bool
  default     = false

  validation {
    condition     = !var.nodes || var.run_id != ""
    error_message = "Machines need a run to take part in: create it first, and give run_id."
  }
  validation {
    condition     = !var.nodes || var.identity_folder != null
    error_message = "Machines need the identities whose ids the keys were made for: give identity_folder."
  }
  validation {
    condition     = !var.nodes || (var.gpu_release != null && (var.cpu_release != null || !var.aggregator_node))
    error_message = "Machines need the program: give gpu_release, and cpu_release for the aggregator's."
  }
}

variable "aggregator_node" {
  description = "Whether the aggregator gets a machine too. Without one you run it elsewhere."
  type        = bool
  default     = true
}

variable "identity_folder" {
  description = "Folder with NAME/identity.json for every miner and validator and for `aggregator`."
  type        = string
  default     = null
}

variable "gpu_release" {
  description = "The release's tarball with CUDA, for miners and validators."
  type        = object({ url = string, sha256 = string })
  default     = null
}

variable "cpu_release" {
  description = "The release's tarball without CUDA, for the aggregator."
  type        = object({ url = string, sha256 = string })
  default     = null
}

variable "spot" {
  description = "Whether miners run on spare capacity. Validators and the aggregator never do: everybody waits for them."
  type        = bool
  default     = true
}

variable "miner_instance_type" {
  description = "Type of the miners' machines."
  type        = string
  default     = "g6e.xlarge"
}

variable "validator_instance_type" {
  description = "Type of the validators' machines."
  type        = string
  default     = "g6e.xlarge"
}

variable "aggregator_instance_type" {
  description = "Type of the aggregator's machine."
  type        = string
  default     = "m7i.2xlarge"
}

variable "volume_gib" {
  description = "Size of a machine's disk."
  type        = number
  default     = 200
}

variable "ami_id" {
  description = "Image of the machines; Amazon's newest for GPUs on Ubuntu 24.04 when absent."
  type        = string
  default     = null
}

variable "ssh_cidr" {
  description = "Addresses that may connect to the machines by SSH; nobody when absent."
  type        = string
  default     = null
}

variable "ssh_key_name" {
  description = "Name of the EC2 key pair for SSH."
  type        = string
  default     = null
}
