#!/usr/bin/env bash
# Installs the Debian packages of the named groups (tools/debian-packages.txt) that are missing: as root, or with sudo where it asks
# for no password; otherwise says what to install. usage: tools/debian.sh GROUP...
set -euo pipefail
here=$(dirname "$0")

missing=()
for group in "$@"; do
    packages=$(awk -v group="$group" '$1 == group { $1 = ""; print }' "$here/debian-packages.txt")
    if [ -z "$packages" ]; then
        echo "tools/debian.sh: no group '$group' in tools/debian-packages.txt" >&2
        exit 2
    fi
    for package in $packages; do
        # An interpreter from elsewhere (pyenv, a toolchain) brings its own headers and venv.
        case $package in
            python3-dev) [ -f "$("${PYTHON:-python3}" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] && continue ;;
            python3-venv) "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null && continue ;;
        esac
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=(env)
elif sudo -n true 2>/dev/null; then
    as_root=(sudo)
else
    as_root=()
fi
if [ ${#as_root[@]} = 0 ] || ! command -v apt-get >/dev/null; then
    echo "These packages are missing; install them and run this again:" >&2
    echo "    sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
