#!/bin/sh
# Writes settings and keys of everybody into a folder: `write-configs.sh FOLDER`, after `terraform apply`.
# Identities that lie there stay as they are. Needs jq.
set -eu
umask 077
folder=${1:?give the folder to write into}

example=$(dirname "$0")
# Two commands, as a shell asks only the last one of a pipe how it went.
files=$("${TERRAFORM:-terraform}" -chdir="$example" output -json files)
files=$(printf %s "$files" | jq -r 'to_entries[] | "\(.key) \(.value | @base64)"')
printf '%s\n' "$files" | while read -r path content; do
    mkdir -p "$folder/$(dirname "$path")"
    # Beside it and moved: a file that others could read must not become the place of a secret.
    printf %s "$content" | base64 -d >"$folder/$path.new"
    mv "$folder/$path.new" "$folder/$path"
done
