#!/bin/bash
# Runs the boot script as a machine would, below a folder, with stand-ins for what a machine has and this one has not.
# Secrets are marked: a line of the script that prints one is found. Needs no account, network or root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root store=$work/store calls=$work/calls
me=$(id -un)
mkdir -p "$root"/{opt,etc/systemd/system,var/lib,usr/local/bin} "$store/secrets" "$work/bin"
export root store calls me PATH="$work/bin:$root/usr/local/bin:$PATH"

fail() {
    echo "boot_test: $1" >&2
    sed 's/^/  | /' "$work/output" >&2
    exit 1
}

stand_in() {
    { echo '#!/bin/bash'; cat; } >"$work/bin/$1"
    chmod 755 "$work/bin/$1"
}
stand_in aws <<'END'
while [ "$1" != --name ]; do shift; done
cat "$store/${2#/brigade/example/}" && echo
END
stand_in curl <<'END'
while [ "$1" != -o ]; do shift; done
cp "$store/tarball" "$2"
END
stand_in systemctl <<'END'
echo "systemctl $1" >>"$calls"
case $1 in
show) echo "$me" ;;
is-enabled) test -e "$root/enabled" ;;
enable) touch "$root/enabled" ;;
esac
END
stand_in runuser <<'END'
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
END
stand_in sleep </dev/null

# A release whose program does as little as it can.
release=$work/brigade-1-x86_64-linux
mkdir -p "$release"/{bin,lib,systemd}
touch "$release/systemd/brigade@.service"
cat >"$release/bin/brigade" <<'END'
#!/bin/bash
echo "brigade $1" >>"$calls"
case "$1 $2" in
"identity new") umask 077; echo OWN >"$4" ;;
"identity show") test "$(stat -c %a "$3")" = 600 && echo '{"id":"ab"}' ;;
doctor*) test ! -e "$root/ill" ;;
esac
END
chmod 755 "$release/bin/brigade"
tar -czf "$store/tarball" -C "$work" brigade-1-x86_64-linux
echo "$(sha256sum "$store/tarball" | cut -d' ' -f1) https://example.org/brigade.tar.gz" >"$store/release"
echo "settings identity.json secrets/run_secret" >"$store/files"
printf 'identity = "identity.json"\n' >"$store/settings"
printf MARKED-RUN >"$store/secrets/run_secret"
printf MARKED-IDENTITY >"$store/identity.json"

# As terraform renders it, below $root.
# shellcheck disable=SC2016 # Terraform's ${…}
sed -e 's|${role}|miner|; s|${region}|eu-central-1|; s|${parameters}|/brigade/example|; s|\$\${|${|g' \
    -e "s#/\(opt\|etc\|var/lib\|usr/local/bin\)/#$root/\1/#g" "$here/../templates/boot.sh.tftpl" >"$work/boot"

boot() {
    : >"$calls"
    bash "$work/boot" >"$work/output" 2>&1 && result=0 || result=$?
    ! grep -q MARKED "$work/output" || fail "a secret is printed"
    [ "$result" = "$1" ] || fail "$2: it ends with $result"
}
did() { grep -qx "$1" "$calls"; }

touch "$root/ill"
boot 1 "a doctor that is not content"
! did "systemctl enable" || fail "a role that cannot work is enabled"
rm "$root/ill"

boot 0 "a first boot"
did "systemctl enable" && did "systemctl start" || fail "the role is not started"
[ "$(cat "$root/etc/brigade/secrets/run_secret")" = MARKED-RUN ] || fail "the secret is not there"
[ "$(find "$root/etc/brigade" -type f -perm 600 | wc -l)" = 3 ] || fail "settings or secrets are open to others"
[ "$(find "$root/etc/brigade" -type f | wc -l)" = 3 ] || fail "there is a file too many"

touch "$root/ill"
boot 0 "a boot when nothing has changed"
did "systemctl start" && ! did "systemctl restart" || fail "the role is not left alone"
rm "$root/ill"

printf MARKED-NEW >"$store/secrets/run_secret"
boot 0 "a boot with a new key"
did "systemctl restart" || fail "the role goes on with an old key"
[ "$(cat "$root/etc/brigade/secrets/run_secret")" = MARKED-NEW ] || fail "the old key is still there"

sed -i 's/^./x/' "$store/release"
boot 1 "a release that is not what was promised"
! did "systemctl start" && ! did "systemctl restart" || fail "a wrong release is started"

rm -rf "$root/etc/brigade" "$root/enabled"
echo "$(sha256sum "$store/tarball" | cut -d' ' -f1) https://example.org/brigade.tar.gz" >"$store/release"
echo "settings secrets/run_secret" >"$store/files"
boot 0 "a machine without an identity"
did "systemctl restart" || fail "the role is not started"
[ "$(cat "$root/etc/brigade/identity.json")" = OWN ] || fail "the machine has made no identity"
did "brigade identity" && grep -q '"id":"ab"' "$work/output" || fail "nobody is told who it is"
boot 0 "its second boot"
[ "$(grep -c '^brigade identity' "$calls")" = 1 ] || fail "the identity is made anew"
