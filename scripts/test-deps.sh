#!/bin/sh
# Installs what the tests need beyond the build: Ceph's object store, a terminal and a browser to look at screens with, and
# Python packages to compare against. Looks before it installs, so that a second call costs nothing.
set -eu

has() {
    # Debian keeps some programs in folders that a user's PATH lacks.
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

missing=
for pair in ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw ceph:ceph-common curl:curl tmux:tmux; do
    has "${pair%%:*}" || missing="$missing ${pair#*:}"
done
# Where the system has no such package, the test that looks at the dashboard says that it is skipped.
browser=
if ! has chromium && ! has chromium-browser && ! has google-chrome; then browser=chromium; fi

if [ -n "$missing$browser" ]; then
    if [ "$(id -u)" = 0 ]; then
        root=
    elif sudo -n true 2>/dev/null; then
        root="sudo -n"
    elif [ -n "$missing" ]; then
        echo "test-deps: the tests need these packages: sudo apt-get install --no-install-recommends$missing $browser" >&2
        exit 1
    else
        root=no
    fi
    if [ -n "$missing" ] && ! has apt-get; then
        echo "test-deps: the tests need these programs from your system's packages:$missing" >&2
        exit 1
    fi
    if [ "$root" != no ] && has apt-get; then
        # Once the system knows its packages, only what is missing is worth asking for them again.
        if [ -n "$missing" ] || ! apt-cache show tmux >/dev/null 2>&1; then $root apt-get update -qq; fi
        # Ubuntu's package of that name only points to a snap.
        if [ -n "$browser" ] && apt-cache show chromium 2>/dev/null | grep -q '^Filename:.*/chromium_[^/]*.deb' &&
            ! apt-cache show chromium 2>/dev/null | grep -q 'snap'; then
            missing="$missing $browser"
        fi
        if [ -n "$missing" ]; then
            echo "test-deps: installing$missing"
            # shellcheck disable=SC2086 # a list of words
            $root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
        fi
    fi
fi

exec "${PYTHON:-python3}" "$(dirname "$0")/test_python.py"
