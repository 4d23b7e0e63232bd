#!/usr/bin/env bash
# Other people's clients, for the conformance tests: each in an environment of its own, because their generated protobuf classes clash
# (docs/decisions, "A private descriptor pool"). Makes what is missing:
#   .venv-clients/tritonclient/bin/python    tritonclient with http and grpc
#   .venv-clients/kserve/bin/python          kserve with its REST and gRPC clients
#   .venv-clients/perf_analyzer/perf_analyzer    a wrapper that sets the library path
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
ROOT=.venv-clients
TRITONCLIENT=2.73.0
KSERVE=0.21.0
# The last tritonclient wheel that carries perf_analyzer linked against a C library as old as Debian 12's.
PERF_ANALYZER=2.41.0
CUDA_RUNTIME=12.4.127

stamp=$(sha256sum <tools/client_venvs.sh)
[ -f $ROOT/stamp ] && [ "$(cat $ROOT/stamp)" = "$stamp" ] && exit 0

tools/debian.sh test
rm -rf $ROOT
mkdir -p $ROOT/perf_analyzer
echo "installing tritonclient, kserve and perf_analyzer into $ROOT"
venv() { # name, requirement...
    "$PYTHON" -m venv "$ROOT/$1"
    "$ROOT/$1/bin/python" -m pip --disable-pip-version-check install -q "${@:2}"
}
venv tritonclient "tritonclient[http,grpc]==$TRITONCLIENT"
venv kserve "kserve==$KSERVE"

download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
"$ROOT/tritonclient/bin/python" -m pip --disable-pip-version-check download -q --no-deps -d "$download" \
    "tritonclient==$PERF_ANALYZER" "nvidia-cuda-runtime-cu12==$CUDA_RUNTIME"
"$PYTHON" - "$download" $ROOT/perf_analyzer <<'UNPACK'
import pathlib
import sys
import zipfile

wheels, target = map(pathlib.Path, sys.argv[1:])
for wheel in wheels.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = pathlib.PurePosixPath(member).name
            if member.endswith("/bin/perf_analyzer") or name.startswith("libcudart.so"):
                destination = target / (name if name.startswith("lib") else "perf_analyzer.bin")
                destination.write_bytes(archive.read(member))
                destination.chmod(0o755)
UNPACK
cat >$ROOT/perf_analyzer/perf_analyzer <<'WRAPPER'
#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here exec "$here/perf_analyzer.bin" "$@"
WRAPPER
chmod +x $ROOT/perf_analyzer/perf_analyzer
$ROOT/perf_analyzer/perf_analyzer --help >/dev/null 2>&1 || [ $? -lt 126 ] || { echo "perf_analyzer does not start" >&2; exit 1; }
echo "$stamp" >$ROOT/stamp
