#!/usr/bin/env bash
# Builds the container image and talks to a server inside it. usage: tools/image.sh [cpu|gpu] [TAG]
#   With a docker engine: docker build, docker run --read-only.
#   Without: buildah with chroot isolation, as root, over a base made by debootstrap that gets the name the Dockerfile starts from. The
#   host's apt sources, pip configuration and CA certificates are mounted while it is built and are not in the image.
# EXTRA_CA=FILE.pem  further CA certificates for the build; BASE=NAME  another base image.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/host-config.sh

TARGET=${1:-cpu}
TAG=${2:-headrace:$TARGET}
BASE=${BASE:-python:3.11-slim-bookworm}
EXTRA_CA=${EXTRA_CA:-${PIP_CERT:-}}
PORT=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
work=$(mktemp -d)
cleanup=()
finish() {
    local i
    for ((i = ${#cleanup[@]} - 1; i >= 0; i--)); do eval "${cleanup[i]}" || true; done
    rm -rf --one-file-system "$work"
}
trap finish EXIT

human() { awk -v bytes="$1" 'BEGIN { printf "%.0f MB", bytes / 1e6 }'; }

write_model() { # a model to serve, made where the packages for it are
    .venv/bin/python -c "
import pathlib, sys
from loadtests.bench.models import mlp
folder = pathlib.Path(sys.argv[1]) / 'mlp' / '1'
folder.mkdir(parents=True)
mlp(folder, 'model', (64, 64, 10))" "$work/models"
    chmod -R a+rX "$work" "$work/models"
}

smoke() { # port: the server inside answers an inference, and drains on SIGTERM
    local url=http://127.0.0.1:$1 body
    for _ in $(seq 150); do
        curl -sf "$url/v2/health/ready" >/dev/null && break
        sleep 0.2
    done
    body=$(.venv/bin/python -c "import json; print(json.dumps({'inputs': [{'name': 'x', 'datatype': 'FP32', 'shape': [1, 64], 'data': [0.5] * 64}]}))")
    if ! curl -sf -H 'content-type: application/json' -d "$body" "$url/v2/models/mlp/infer" | grep -q '"outputs"'; then
        echo "the server in the image did not answer" >&2
        [ ! -f "$work/server.log" ] || tail -n 20 "$work/server.log" >&2
        return 1
    fi
    echo "smoke test: the server in the image answered an inference"
}

with_docker() {
    local name=headrace-smoke-$$
    docker build -q -f deploy/Dockerfile --target "$TARGET" --build-arg BASE="$BASE" -t "$TAG" .
    echo "image $TAG: $(human "$(docker image inspect --format '{{.Size}}' "$TAG")")"
    [ "$TARGET" = cpu ] || return 0
    docker run -d --rm --name "$name" --read-only --tmpfs /tmp -p "127.0.0.1:$PORT:8000" -v "$work/models:/models:ro" "$TAG" >/dev/null
    cleanup+=("docker stop $name >/dev/null 2>&1")
    smoke "$PORT"
}

make_base() {
    buildah images -q "docker.io/library/$BASE" >/dev/null 2>&1 && return
    local container packages=python3,python3-venv,ca-certificates
    echo "making the base $BASE with debootstrap"
    debootstrap --variant=minbase --include="$packages" bookworm "$work/base" "$(apt_mirror)" >"$work/debootstrap.log" 2>&1 \
        || { tail -n 5 "$work/debootstrap.log" >&2; return 1; }
    # It keeps no record of where it came from: the build brings the host's sources.
    rm -rf "$work/base/etc/apt/sources.list" "$work/base"/var/cache/apt/* "$work/base"/var/lib/apt/lists/* "$work/base"/var/log/*
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/base" / >/dev/null
    buildah commit -q "$container" "docker.io/library/$BASE" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf --one-file-system "$work/base"
}

build_volumes() { # what only the build sees, as --volume arguments
    local config=$work/host path
    copy_host_config "$config"
    for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/keyrings /etc/apt/auth.conf.d /usr/share/keyrings; do
        [ -e "$config$path" ] && echo "--volume=$config$path:$path:ro"
    done
    [ -e "$config$HOME/.config/pip/pip.conf" ] && echo "--volume=$config$HOME/.config/pip/pip.conf:$HOME/.config/pip/pip.conf:ro"
    [ -n "$EXTRA_CA" ] && echo "--volume=$EXTRA_CA:$EXTRA_CA:ro" && echo "--build-arg=EXTRA_CA=$EXTRA_CA"
    for path in $(pip_directories); do echo "--volume=$path:$path:ro"; done
    return 0
}

with_buildah() {
    local volumes container root
    [ "$(id -u)" = 0 ] || { echo "without a docker engine the image is built by buildah, as root: run this as root" >&2; exit 1; }
    make_base
    mapfile -t volumes < <(build_volumes)
    buildah build -q --isolation chroot --pull=never --format docker "${volumes[@]}" --ignorefile deploy/Dockerfile.dockerignore \
        -f deploy/Dockerfile --target "$TARGET" --build-arg BASE="$BASE" -t "$TAG" . >/dev/null
    container=$(buildah from --pull=never "$TAG")
    cleanup+=("buildah rm $container >/dev/null")
    root=$(buildah mount "$container")
    forget_mounts "$root"
    buildah commit -q --format docker "$container" "$TAG" >/dev/null
    echo "image $TAG: $(human "$(du -sbx "$root" | cut -f1)")"
    [ "$TARGET" = cpu ] || return 0
    run_read_only "$root" &
    cleanup+=("kill -TERM $! 2>/dev/null && wait $!")
    smoke "$PORT"
}

forget_mounts() { # root: the empty places where the build's volumes were
    local path
    rm -rf "$1$HOME/.config/pip"
    rmdir --ignore-fail-on-non-empty "$1$HOME/.config" 2>/dev/null || true
    for path in $(pip_directories); do rmdir -p --ignore-fail-on-non-empty "$1$path" 2>/dev/null || true; done
}

run_read_only() { # root: the entry point as its user, with nothing writable but /tmp and the state directory
    exec unshare --mount --propagation private bash -euc '
        root=$1
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount --bind "$2" "$root/models"
        mount -t tmpfs tmpfs "$root/tmp"
        mount -t tmpfs -o uid=10001 tmpfs "$root/var/lib/headrace"
        mount -o remount,ro,bind "$root"
        exec env -i PATH=/opt/headrace/bin:/usr/sbin:/usr/bin:/bin HEADRACE_HOST=127.0.0.1 HEADRACE_STATE_DIR=/var/lib/headrace PYTHONDONTWRITEBYTECODE=1 \
            chroot --userspec=10001:10001 "$root" headrace serve /models --http-port "$3" --grpc-port 0 --metrics-port 0 --admin-port none
    ' bash "$1" "$work/models" "$PORT" >"$work/server.log" 2>&1
}

[ -x .venv/bin/python ] || { echo "run \`make setup\` first: the smoke test makes its model with .venv" >&2; exit 1; }
write_model
if docker info >/dev/null 2>&1; then with_docker; else with_buildah; fi
