# What the machine fetches when it boots, and a role that may read just this.

data "aws_partition" "current" {}

locals {
  parameters = "/brigade/${var.name}"

  secrets = merge(var.secrets, var.identity == null ? {} : { "identity.json" = var.identity })

  # The names are no secret, and a resource for each needs them in the open.
  secret_names = sort(nonsensitive(keys(local.secrets)))

  plain = {
    release  = "${var.release.sha256} ${var.release.url}"
    settings = var.settings
    # What else to fetch: not in user data, which a machine that is there does not read again.
    files = join(" ", concat(["settings"], local.secret_names))
  }
}

resource "aws_ssm_parameter" "plain" {
  for_each = local.plain
  name     = "${local.parameters}/${each.key}"
  type     = "String"
  value    = each.value
  tags     = var.tags
}

resource "aws_ssm_parameter" "secret" {
  for_each = toset(local.secret_names)
  name     = "${local.parameters}/${each.key}"
  type     = "SecureString"
  value    = local.secrets[each.key]
  tags     = var.tags
}

resource "aws_iam_role" "this" {
  name = var.name
  path = "/brigade/"
  tags = var.tags
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.${data.aws_partition.current.dns_suffix}" }
    }]
  })
}

# The default key of the Parameter Store needs no permission of its own.
resource "aws_iam_role_policy" "this" {
  name = "parameters"
  role = aws_iam_role.this.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect = "Allow"
      Action = "ssm:GetParameter"
      Resource = concat(
        [for name in keys(local.plain) : aws_ssm_parameter.plain[name].arn],
        [for name in local.secret_names : aws_ssm_parameter.secret[name].arn],
      )
    }]
  })
}

resource "aws_iam_instance_profile" "this" {
  name = var.name
  path = "/brigade/"
  role = aws_iam_role.this.name
  tags = var.tags
}
