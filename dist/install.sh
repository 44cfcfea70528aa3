#!/bin/sh
# Installs the release that this file lies in. A second call, or that of a newer release, puts things right and keeps what is
# not its own: settings, state, keys. Run `./install.sh --help`.
set -eu
# Whatever the caller keeps private, what is installed is for all.
umask 022

usage() {
    cat <<'END'
./install.sh [--prefix DIR] [--libtorch DIR] [--no-systemd] [--uninstall]

  --prefix DIR    where to install: DIR/bin, DIR/lib/brigade, DIR/share (default: /usr/local)
  --libtorch DIR  use the libraries of a PyTorch 2.11 for CUDA 13: its folder, such as .../site-packages/torch
  --no-systemd    no units, no user, no /etc/brigade: only files below the prefix
  --uninstall     remove what an installation put there; settings and state stay

DESTDIR is put before every path, for packagers.
END
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

prefix=/usr/local libtorch='' systemd=yes action=install
while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --libtorch)
        [ $# -gt 1 ] || die "$1 needs a folder; see --help"
        case $1 in --prefix) prefix=$2 ;; *) libtorch=$2 ;; esac
        shift
        ;;
    --no-systemd) systemd=no ;;
    --uninstall) action=uninstall ;;
    -h | --help) usage && exit ;;
    *) die "no such option: $1; see --help" ;;
    esac
    shift
done
case $prefix in
/) die "the prefix must not be /; /usr/local is the default" ;;
/*[!A-Za-z0-9/._-]*) die "the prefix has a character that units and scripts trip over: $prefix; choose another folder" ;;
/*) prefix=${prefix%/} ;;
*) die "the prefix must begin with /: $prefix" ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
to=$root$prefix
home=$to/lib/brigade
units=$root/etc/systemd/system
sysusers=$root/etc/sysusers.d/brigade.conf

place() { # FILE TO [MODE]
    mkdir -p "$(dirname "$2")"
    # Moved into place: a program that runs keeps the file that it has begun with.
    cp "$1" "$2.new"
    chmod "${3:-644}" "$2.new"
    mv -f "$2.new" "$2"
}

pages() {
    for page in "$to"/share/man/man1/brigade.1 "$to"/share/man/man1/brigade-*.1; do
        if [ -e "$page" ]; then rm -f "$page"; fi
    done
}

uninstall() {
    if [ -e "$to/bin/brigade" ] || [ -L "$to/bin/brigade" ]; then rm -f "$to/bin/brigade"; fi
    rm -rf "$home" "$home.old" "$home.new" "$to/share/doc/brigade" "$to/share/brigade"
    rm -f "$to/share/bash-completion/completions/brigade" "$to/share/zsh/site-functions/_brigade" \
        "$to/share/fish/vendor_completions.d/brigade.fish"
    pages
    if [ "$systemd" = yes ]; then
        rm -f "$units/brigade@.service" "$units/brigade-dashboard.service" "$units/brigade-serve.service" "$sysusers"
        reload
    fi
    echo "removed from $prefix; /etc/brigade, /var/lib/brigade and the user brigade stay, as they hold keys and state"
}

reload() {
    # Not while a root is made for another machine, nor where systemd does not run.
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

check() {
    [ -x "$here/bin/brigade" ] || die "$here holds no release; unpack the tarball again"
    if [ ! -d "$to" ]; then mkdir -p "$to" || die "cannot make $to; run as root, or choose another --prefix"; fi
    [ -w "$to" ] || die "$to cannot be written to; run as root, or choose another --prefix"
    if [ "$systemd" = yes ] && [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
        die "units and the user brigade need root; run as root, or add --no-systemd"
    fi
    have=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2) || have=
    if [ -z "$root" ] && [ "$(printf '%s\n' @GLIBC@ "${have:-0}" | sort -V | head -n 1)" != @GLIBC@ ]; then
        die "this release needs glibc @GLIBC@ or later, and here is ${have:-another libc}; use a newer system, or build from source"
    fi
    [ -z "$libtorch" ] || check_libtorch
}

check_libtorch() {
    case $libtorch in /*) ;; *) libtorch=$PWD/$libtorch ;; esac
    if [ ! -e "$libtorch/lib/libtorch_cpu.so" ]; then
        die "$libtorch has no lib/libtorch_cpu.so; --libtorch wants the folder that Python prints for torch.__path__[0]"
    fi
    found=unknown
    if [ -e "$libtorch/version.py" ]; then
        found=$(sed -n "s/^__version__ *= *'\([^']*\)'.*/\1/p" "$libtorch/version.py")
    elif [ -e "$libtorch/build-version" ]; then
        found=$(cat "$libtorch/build-version")
    fi
    case $found in
    2.11.*) ;;
    *) die "$libtorch is PyTorch $found, and this release needs 2.11; install that one" ;;
    esac
}

install_program() {
    # Whole beside the old one, and then in its place. The release before stays as lib/brigade.old; the same one again does not
    # push it out.
    rm -rf "$home.new"
    mkdir -p "$home.new"
    cp -R "$here/bin" "$home.new/bin"
    if [ -n "$libtorch" ]; then
        # A link to the folder, not to its files: NVIDIA's libraries are looked for beside it.
        ln -s "$libtorch/lib" "$home.new/lib"
    elif [ -d "$here/lib" ]; then
        cp -R "$here/lib" "$home.new/lib"
    elif [ -L "$home/lib" ]; then
        cp -P "$home/lib" "$home.new/lib"
    fi
    chmod -R u=rwX,go=rX "$home.new"
    if cmp -s "$home.new/bin/brigade" "$home/bin/brigade"; then
        rm -rf "$home"
    elif [ -d "$home" ]; then
        rm -rf "$home.old"
        mv "$home" "$home.old"
    fi
    mv "$home.new" "$home"
    mkdir -p "$to/bin"
    ln -sfn ../lib/brigade/bin/brigade "$to/bin/brigade"
}

install_shared() {
    pages
    for page in "$here"/man/man1/*; do place "$page" "$to/share/man/man1/${page##*/}"; done
    place "$here/completions/brigade.bash" "$to/share/bash-completion/completions/brigade"
    place "$here/completions/_brigade" "$to/share/zsh/site-functions/_brigade"
    place "$here/completions/brigade.fish" "$to/share/fish/vendor_completions.d/brigade.fish"
    rm -rf "$to/share/doc/brigade" "$to/share/brigade"
    mkdir -p "$to/share/doc"
    cp -R "$here/share/doc" "$to/share/doc/brigade"
    cp "$here/LICENSE" "$to/share/doc/brigade/LICENSE"
    cp -R "$here/share/licenses" "$to/share/doc/brigade/licenses"
    if [ -d "$here/share/monitoring" ]; then
        mkdir -p "$to/share/brigade"
        cp -R "$here/share/monitoring" "$to/share/brigade/monitoring"
    fi
}

install_units() {
    for unit in "$here"/systemd/*.service; do
        sed "s|/usr/local/bin/brigade|$prefix/bin/brigade|" "$unit" >"$home/unit"
        place "$home/unit" "$units/${unit##*/}"
    done
    rm "$home/unit"
    place "$here/systemd/brigade.sysusers" "$sysusers"
    if [ -n "$root" ]; then return; fi
    if ! id brigade >/dev/null 2>&1; then
        useradd --system --user-group --home-dir /var/lib/brigade --shell /usr/sbin/nologin brigade
    fi
    mkdir -p /etc/brigade
    chown brigade:brigade /etc/brigade
    chmod 700 /etc/brigade
    reload
}

if [ "$action" = uninstall ]; then
    uninstall
    exit
fi
check
install_program
install_shared
if [ "$systemd" = yes ]; then install_units; fi
if [ -n "$root" ]; then exit; fi
# The proof, and what is missing if it fails: most likely libtorch.
if ! said=$("$to/bin/brigade" --version 2>&1); then
    die "installed in $prefix, but it does not start: $(echo "$said" | head -n 1); give --libtorch DIR (README.md)"
fi
echo "$said"
echo "installed in $prefix; next: brigade join RUN_URL, see $prefix/share/doc/brigade/docs/install.md"
