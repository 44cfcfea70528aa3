#!/bin/sh
# Installs what the tests need beyond the build: Ceph's object store, and Python packages to compare against.
# Looks before it installs, so that a second call costs nothing.
set -eu

missing=
for pair in ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw ceph:ceph-common curl:curl; do
    # Debian keeps some programs in folders that a user's PATH lacks.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        root=
    elif sudo -n true 2>/dev/null; then
        root="sudo -n"
    else
        echo "test-deps: the tests need these packages: sudo apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "test-deps: the tests need these programs from your system's packages:$missing" >&2
        exit 1
    fi
    echo "test-deps: installing$missing"
    $root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

exec "${PYTHON:-python3}" "$(dirname "$0")/test_python.py"
