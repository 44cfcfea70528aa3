# One machine that takes part in a run: a miner, a validator or an aggregator, from its first boot on.

terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source = "hashicorp/aws"
      # Older ones leave a spot request open on destroy, and it starts a machine that nobody knows of.
      version = "~> 5.100"
    }
  }
}

data "aws_ssm_parameter" "ami" {
  count = var.ami_id == null ? 1 : 0
  name  = var.ami_parameter
}

data "aws_region" "current" {}

locals {
  tags = merge(var.tags, { Name = var.name })

  boot = templatefile("${path.module}/templates/boot.sh.tftpl", {
    parameters = local.parameters
    region     = data.aws_region.current.name
    role       = var.role
  })

  # Everybody on the machine, and everybody who may describe it, reads user data. So it says where to fetch, and
  # holds no secret. JSON is YAML.
  user_data = "#cloud-config\n${jsonencode({
    write_files = [{
      path        = "/var/lib/cloud/scripts/per-boot/brigade"
      permissions = "0755"
      content     = local.boot
    }]
  })}\n"
}

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-"
  description = "Brigade: no way in, every way out"
  vpc_id      = var.vpc_id
  tags        = local.tags

  # A peer's store may listen on any port. What must not be reached inside the network, the program itself refuses
  # (allow_private_endpoints).
  egress {
    description      = "Stores of peers"
    from_port        = 0
    to_port          = 0
    protocol         = "-1"
    cidr_blocks      = ["0.0.0.0/0"]
    ipv6_cidr_blocks = ["::/0"]
  }

  dynamic "ingress" {
    for_each = var.ssh_cidr == null ? [] : [var.ssh_cidr]
    content {
      description = "SSH"
      from_port   = 22
      to_port     = 22
      protocol    = "tcp"
      cidr_blocks = [ingress.value]
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_instance" "this" {
  ami                         = var.ami_id == null ? data.aws_ssm_parameter.ami[0].insecure_value : var.ami_id
  instance_type               = var.instance_type
  subnet_id                   = var.subnet_id
  vpc_security_group_ids      = [aws_security_group.this.id]
  iam_instance_profile        = aws_iam_instance_profile.this.name
  key_name                    = var.ssh_key_name
  user_data                   = local.user_data
  user_data_replace_on_change = false
  tags                        = local.tags

  # A session token for every question, and no answer beyond this machine: what a request is tricked into fetching
  # cannot be the machine's own credentials.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    encrypted   = true
    volume_type = "gp3"
    volume_size = var.volume_gib
    tags        = local.tags
  }

  # Persistent with `stop`, and no group of one machine that replaces itself: a miner's error feedback lies on the
  # disk. A stopped machine keeps its disk and goes on where it was when there is capacity again; a replaced one would
  # come back with an empty disk, as a newcomer to its own updates. The price: it waits for capacity in its own zone.
  dynamic "instance_market_options" {
    for_each = var.spot ? [true] : []
    content {
      market_type = "spot"
      spot_options {
        spot_instance_type             = "persistent"
        instance_interruption_behavior = "stop"
        max_price                      = var.spot_max_price
      }
    }
  }

  lifecycle {
    # A newer image or a newer boot script is no reason to stop a machine that trains. Settings, secrets and the
    # release are fetched at every boot. `terraform apply -replace` makes the machine anew.
    ignore_changes = [ami, user_data]
  }

  depends_on = [aws_iam_role_policy.this, aws_ssm_parameter.plain, aws_ssm_parameter.secret]
}
