#!/bin/sh
# Checks everything under terraform/ with neither an account nor, where providers are mirrored, a network: format,
# types, tests against a mocked provider, and the boot script of a node. Works on a copy, so that nothing is left behind.
#
# Providers come from the folder $BRIGADE_TF_MIRROR, else from a mirror that lies in a folder of /opt, else from where
# Terraform finds them.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
terraform=$(command -v terraform || command -v tofu || true)
if [ -z "$terraform" ]; then
    echo "terraform: skipped, neither terraform nor tofu is installed"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$here/terraform" "$work/terraform"
# What somebody's own use has left there is not part of it.
find "$work/terraform" \( -name .terraform -o -name '.terraform.lock.hcl' -o -name '*.tfstate*' -o -name '*.tfvars*' \) -prune -exec rm -rf {} +

mirror=${BRIGADE_TF_MIRROR:-}
if [ -z "$mirror" ]; then
    # A mirror is DIR/HOST/NAMESPACE/TYPE.
    for provider in /opt/*/*/hashicorp/aws; do
        if [ -d "$provider" ]; then mirror=${provider%/*/*/*}; fi
    done
fi
if [ -n "${BRIGADE_TF_MIRROR:-}" ] && [ ! -d "$mirror" ]; then
    echo "terraform: BRIGADE_TF_MIRROR is no folder: $mirror" >&2
    exit 1
fi
if [ -n "$mirror" ]; then
    cat >"$work/rc" <<END
provider_installation {
  filesystem_mirror {
    path    = "$mirror"
    include = ["*/*/*"]
  }
}
END
    export TF_CLI_CONFIG_FILE="$work/rc"
else
    # Each provider is loaded once, not once for each module.
    mkdir "$work/cache"
    export TF_PLUGIN_CACHE_DIR="$work/cache" TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=1
fi
# Without it a plan that lacks keys asks the machine it runs on. And no word to anybody about new versions.
export AWS_EC2_METADATA_DISABLED=true CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1 TF_INPUT=0
unset TF_WORKSPACE TF_DATA_DIR TF_CLI_ARGS 2>/dev/null || true

# Runs a command, and shows what it says only if it fails.
quietly() {
    if ! "$@" >"$work/said" 2>&1; then
        echo "terraform: failed: $*" >&2
        cat "$work/said" >&2
        exit 1
    fi
}

quietly "$terraform" fmt -check -diff -recursive "$work/terraform"
echo "terraform: format ok"

quietly bash "$work/terraform/modules/gpu-node/tests/boot_test.sh"
echo "terraform: boot script of modules/gpu-node ok"

for folder in "$work"/terraform/modules/* "$work"/terraform/examples/*; do
    name=${folder#"$work"/terraform/}
    if ! grep -q 'hashicorp/aws' "$folder"/*.tf; then
        echo "terraform: $name: format only, as its provider has no mock here"
        continue
    fi
    cd "$folder"
    quietly "$terraform" init -backend=false -no-color
    quietly "$terraform" validate -no-color
    quietly "$terraform" test -no-color
    passed=$(sed -n 's/^Success! \([1-9][0-9]*\) passed.*/\1/p' "$work/said")
    if [ -z "$passed" ]; then
        echo "terraform: $name has no tests" >&2
        exit 1
    fi
    echo "terraform: $name: $passed tests ok"
done
