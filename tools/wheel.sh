#!/usr/bin/env bash
# Builds a wheel, bundles the C libraries into it, and tries it where nothing else is: a clean venv, an import, an inference.
# usage: tools/wheel.sh [PLATFORM]        the repaired wheel lands in dist/
set -euo pipefail
cd "$(dirname "$0")/.."

PLATFORM=${1:-manylinux_2_34_$(uname -m)}
PYTHON=${PYTHON:-python3}
work=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null || true; wait "$server" || true; }
    rm -rf "$work"
}
trap finish EXIT

rm -rf build/lib* build/bdist* dist
.venv/bin/python -m build --no-isolation --outdir "$work/sdist" --sdist . >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
.venv/bin/python -m build --no-isolation --outdir "$work" --wheel . >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
PATH=$PWD/.venv/bin:$PATH auditwheel repair --plat "$PLATFORM" --strip -w dist "$work"/headrace-*.whl 2>"$work/build.log" \
    || { cat "$work/build.log" >&2; exit 1; }
cp "$work"/sdist/*.tar.gz dist/
.venv/bin/python tools/check_wheel.py dist/headrace-*.whl dist/headrace-*.tar.gz

echo "trying the wheel in a clean environment"
"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q -c constraints.txt "$(echo dist/headrace-*.whl)[cpu]"
.venv/bin/python -c "
import pathlib, sys
from loadtests.bench.models import mlp
mlp(pathlib.Path(sys.argv[1]), 'mlp', (64, 64, 10))" "$work"
cd "$work"
port=$(./venv/bin/python -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
./venv/bin/headrace serve mlp.onnx --http-port "$port" --grpc-port 0 --metrics-port 0 --admin-port 0 --state-dir state >server.log 2>&1 &
server=$!
./venv/bin/python - "$port" <<'SMOKE' || { tail -n 20 server.log >&2; exit 1; }
import json
import sys
import time
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{sys.argv[1]}/v2"
for _ in range(300):
    try:
        urllib.request.urlopen(f"{base}/health/ready", timeout=2)
        break
    except (OSError, urllib.error.HTTPError):
        time.sleep(0.1)
else:
    sys.exit("the server was not ready in 30 s")
body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}]}).encode()
answer = json.load(urllib.request.urlopen(f"{base}/models/mlp/infer", body, timeout=10))
assert len(answer["outputs"][0]["data"]) == 10, answer
print("the wheel serves")
SMOKE
cd - >/dev/null
ls -l dist
