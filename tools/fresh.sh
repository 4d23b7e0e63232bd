#!/usr/bin/env bash
# The README's two commands on a fresh Debian 12: a debootstrap root in .fresh/ with only python3, git and make, a clone of this
# repository's HEAD inside, `make serve` answered and stopped, `make test`. Needs root. usage: tools/fresh.sh [--keep]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/host-config.sh

[ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root: run this as root" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || echo "note: changes that are not committed are not in the clone" >&2
# Where somebody else has port 8000: PORT=18000 tools/fresh.sh
ports=()
[ "${PORT:=8000}" = 8000 ] || ports=("HEADRACE_HTTP_PORT=$PORT" HEADRACE_GRPC_PORT=0 HEADRACE_METRICS_PORT=0 HEADRACE_ADMIN_PORT=0)
root=$PWD/.fresh/debian
log=$PWD/.fresh/serve.log

mounts=()
mount_in() { # source, options...
    mkdir -p "$root$1"
    mount "${@:2}" "$1" "$root$1"
    # Unmounting these later must not reach the host's own.
    mount --make-rslave "$root$1"
    mounts+=("$root$1")
}
server=
stop_server() { # its process group: the chroot, make and what it started
    [ -z "$server" ] || { kill -TERM -- "-$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
    server=
}
finish() {
    local i
    stop_server
    for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount -R "${mounts[i]}" || umount -l "${mounts[i]}"; done
    mounts=()
}
trap finish EXIT

# What a run that was killed has left mounted; the host's own stays out of it here as well.
awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r | while read -r path; do
    mount --make-rslave "$path" 2>/dev/null || true
    umount -l "$path"
done

if [ "${1:-}" != --keep ] || [ ! -d "$root" ]; then
    rm -rf --one-file-system .fresh
    mkdir -p .fresh
    echo "making a Debian 12 root with python3, git and make"
    debootstrap --variant=minbase --include=python3,git,make bookworm "$root" "$(apt_mirror)" >.fresh/debootstrap.log 2>&1 \
        || { tail -n 5 .fresh/debootstrap.log >&2; exit 1; }
fi
copy_host_config "$root"
mount_in /proc -t proc
mount_in /dev --rbind
mount_in /sys --rbind
for path in $(pip_directories); do mount_in "$path" --bind -o ro; done
rm -rf --one-file-system "$root/src"
mkdir -p "$root/src"
git clone -q --no-hardlinks . "$root/src/headrace"

inside() { # command in the clone
    env -i HOME="$HOME" PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI=true "${ports[@]}" $(network_environment) \
        chroot "$root" /bin/bash -c "cd /src/headrace && $1"
}

echo "make serve"
start=$SECONDS
set -m
inside "exec make serve" >"$log" 2>&1 &
server=$!
set +m
until python3 -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$PORT/v2/health/ready', timeout=2)" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || { echo "make serve ended:" >&2; tail -n 30 "$log" >&2; exit 1; }
    [ $((SECONDS - start)) -lt 900 ] || { echo "make serve was not ready in 15 minutes" >&2; tail -n 30 "$log" >&2; exit 1; }
    sleep 1
done
echo "ready after $((SECONDS - start)) s"
inside ".venv/bin/headrace infer digits --from-dataset --url http://127.0.0.1:$PORT"
# One signal, to the supervisor alone: a second one means at once.
kill -TERM "$(pgrep -o -g "$server" -f 'headrace serve')"
wait "$server"
server=
echo "make serve drained and ended with 0"

echo "make test"
inside "make test"
echo "again: set-up takes"
inside "time make setup"
