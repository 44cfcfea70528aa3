#!/bin/bash
# Proves that a release runs by itself: `scripts/dist-test.sh FOLDER`, the folder that `make dist` wrote.
#
# The tarball is unpacked into an empty root that has glibc and nothing else: no libtorch, no compiler's libraries, no shell.
# In there, with an empty environment, it tells its version and trains. Then it is installed, put over itself, and removed.
# As root, or where users may make namespaces; elsewhere it says so, and hides nothing but the environment.
set -euo pipefail

folder=${1:?scripts/dist-test.sh FOLDER}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "dist-test: $*" >&2
    exit 1
}

step() { echo "dist-test: $*"; }

# The newest that holds all it needs.
shopt -s nullglob
tarball=
for candidate in "$folder"/brigade-*-x86_64-linux.tar.gz; do
    if [ -z "$tarball" ] || [ "$candidate" -nt "$tarball" ]; then tarball=$candidate; fi
done
[ -n "$tarball" ] || fail "no tarball for CPUs in $folder: make dist"
(cd "$folder" && grep -F "  ${tarball##*/}" SHA256SUMS | sha256sum --check --quiet) || fail "SHA256SUMS does not hold: make dist"

root=$work/root
mkdir -p "$root"/{dev,proc,tmp,lib64}
tar -xzf "$tarball" -C "$root"
name=$(basename "$tarball" .tar.gz)
brigade=$root/$name/bin/brigade
for path in bin/brigade lib/libtorch_cpu.so systemd/brigade@.service man/man1/brigade.1 completions/brigade.bash LICENSE \
    README.md install.sh share/doc/bucket-layout.md share/licenses/crates.txt share/licenses/GPL-3.0.txt \
    share/licenses/GCC-exception-3.1.txt; do
    [ -e "$root/$name/$path" ] || fail "$path is not in $tarball"
done
if command -v readelf >/dev/null; then
    # shellcheck disable=SC2016 # the loader's word, not a variable
    readelf -d "$brigade" | grep -F 'RUNPATH' | grep -Fq '[$ORIGIN/../lib]' || fail "bin/brigade looks elsewhere than in ../lib"
fi
step "$name: $(du -m "$tarball" | cut -f1) MB, unpacked $(du -sm "$root/$name" | cut -f1) MB"

# glibc of this machine, and not one library more. Debian's loader looks in /lib, others' in /lib64.
ln -s lib64 "$root/lib"
for library in ld-linux-x86-64 libc libm libdl libpthread librt libutil libresolv; do
    for at in /lib64 /lib/x86_64-linux-gnu /usr/lib64; do
        for file in "$at/$library".so.?; do cp -nL "$file" "$root/lib64/"; done
    done
done

# Runs the release in its root. The folders of devices are this machine's: random numbers, null.
if [ "$(id -u)" = 0 ]; then namespace=(unshare --mount --pid --fork --kill-child); else
    namespace=(unshare --map-root-user --mount --pid --fork --kill-child)
fi
# Debian keeps it in a folder that a user's PATH lacks.
chroot=$(PATH="$PATH:/usr/sbin:/sbin" command -v chroot || true)
if [ -n "$chroot" ] && "${namespace[@]}" true 2>/dev/null; then
    inside() {
        # shellcheck disable=SC2016 # the inner shell's variables
        "${namespace[@]}" /bin/sh -euc 'root=$1; shift
            mount --rbind /dev "$root/dev" && mount --rbind /proc "$root/proc"
            exec env -i "$@"' sh "$root" "$chroot" "$root" "$@"
    }
    base=/$name work_inside=/tmp
else
    step "no namespaces here, so the machine's other libraries stay in sight"
    inside() { env -i "$@"; }
    base=$root/$name work_inside=$root/tmp
fi

inside "$base/bin/brigade" --version | sed 's/^/    /' || fail "it does not start"
inside "$base/bin/brigade" demo --help >/dev/null || fail "brigade demo --help"
started=$SECONDS
inside "$base/bin/brigade" demo --model tiny --miners 1 --windows 2 --dir "$work_inside/demo" --data "$base/share/doc" --json \
    >"$work/rows" 2>"$work/log" || { tail -n 20 "$work/log" >&2; fail "the demo failed"; }
[ "$(grep -c '"window"' "$work/rows")" -ge 2 ] || fail "the demo told of fewer than 2 windows"
checkpoint=$(find "$root/tmp/demo" -name '*.safetensors' -path '*checkpoint*' | head -n 1)
[ -n "$checkpoint" ] || fail "the demo left no checkpoint"
step "trained 2 windows from the tarball alone in $((SECONDS - started)) s"

prefix=$work/prefix
"$root/$name/install.sh" --prefix "$prefix" --no-systemd >/dev/null
"$root/$name/install.sh" --prefix "$prefix" --no-systemd >/dev/null
env -i "$prefix/bin/brigade" -V >/dev/null || fail "what was installed does not start"
DESTDIR=$work/dest "$root/$name/install.sh" --prefix /opt/brigade
grep -q '^ExecStart=/opt/brigade/bin/brigade ' "$work/dest/etc/systemd/system/brigade@.service" || fail "the unit starts another program"
"$root/$name/install.sh" --prefix "$prefix" --no-systemd --uninstall >/dev/null
left=$(find "$prefix" ! -type d)
[ -z "$left" ] || fail "left behind: $left"
step "installed twice, removed without a trace"

if command -v systemd-analyze >/dev/null; then
    mkdir "$work/units"
    for unit in "$root/$name"/systemd/*.service; do
        sed "s|/usr/local/bin/brigade|$brigade|" "$unit" >"$work/units/${unit##*/}"
    done
    # Lines of systemd 254, which an older one skips; a machine without manual pages installed.
    if systemd-analyze verify --man=no "$work"/units/*.service 2>&1 | grep -v "Unknown key.* 'Restart\(Steps\|MaxDelaySec\)'" >&2; then
        fail "systemd objects to a unit"
    fi
    step "systemd accepts the units"
fi
