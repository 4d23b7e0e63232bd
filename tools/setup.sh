#!/usr/bin/env bash
# Makes what is missing: Debian packages, .venv with the pinned dependencies, the extensions built in place. Again, it takes a second:
# each step leaves a stamp with the hash of what it came from. usage: tools/setup.sh [--force]
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
[ "${1:-}" = --force ] && rm -f "$VENV"/headrace-*.stamp

"$PYTHON" - <<'CHECK' || exit 1
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Headrace needs Python 3.11 to 3.13; {sys.executable} is {sys.version.split()[0]}. Set PYTHON=/path/to/python3.")
CHECK
PYTHON="$PYTHON" tools/debian.sh build

up_to_date() { # stamp, hash
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

dependencies=$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum)
if ! up_to_date "$VENV/headrace-dependencies.stamp" "$dependencies"; then
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
    echo "installing the Python packages into $VENV"
    pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
    "${pip[@]}" install -q -c constraints.txt 'setuptools>=77' 'cython>=3.3,<3.4'
    # The extensions are built below, in place, in parallel and only where they changed.
    HEADRACE_MODULES=none "${pip[@]}" install -q -c constraints.txt --no-build-isolation -e '.[cpu,demo,dev,records,delta]'
    "${pip[@]}" install -q -c constraints.txt --no-deps magika
    echo "$dependencies" >"$VENV/headrace-dependencies.stamp"
fi

sources=$({ find ext -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' \) -print0 | sort -z | xargs -0 cat; cat setup.py; env | grep '^HEADRACE_\(DEBUG\|SANITIZE\)' || true; } | sha256sum)
if ! up_to_date "$VENV/headrace-build.stamp" "$sources"; then
    echo "building the extensions"
    "$VENV/bin/python" setup.py -q build_ext --inplace
    echo "$sources" >"$VENV/headrace-build.stamp"
fi
