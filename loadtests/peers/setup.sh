#!/usr/bin/env bash
# Makes .venv-peers/NAME for each peer that is named: they drag in packages that clash with ours and with one another.
# usage: loadtests/peers/setup.sh [mlserver] [litserve] [bentoml]
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}

[ $# -gt 0 ] || set -- mlserver litserve bentoml
for peer in "$@"; do
    requirements=loadtests/peers/$peer.txt
    venv=.venv-peers/$peer
    stamp=$(sha256sum <"$requirements")
    [ -f "$venv/requirements.stamp" ] && [ "$(cat "$venv/requirements.stamp")" = "$stamp" ] && continue
    echo "installing $peer into $venv"
    "$PYTHON" -m venv --clear "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check install -q -r "$requirements"
    echo "$stamp" >"$venv/requirements.stamp"
done
