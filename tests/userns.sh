#!/bin/sh
# Runs tests against a Docker engine of its own that maps the users of its containers to others of the machine
# (dockerd --userns-remap), and takes it down again. As root, after `isol8 setup`; nothing else may change
# /etc/subuid and /etc/subgid meanwhile.
# Usage: tests/userns.sh [EXPRESSION OF nextest]; by default both security suites where sandboxes are used again.
set -eu
cd "$(dirname "$0")/.."

tests=${1:-'(binary(leaks) | binary(escapes) | binary(security)) & not test(where_no_sandbox_is_used_again)'}
directory=$(mktemp -d /tmp/isol8-userns.XXXXXX)
# Its root is nobody in particular to us, and must get to the engine's data.
chmod 711 "$directory"
engine=
finish() {
    if [ -n "$engine" ]; then
        kill "$engine" 2>/dev/null || :
        wait "$engine" || :
    fi
    for file in subuid subgid; do
        [ ! -e "$directory/$file" ] || cat "$directory/$file" >"/etc/$file"
    done
    # What the engine may have left mounted would be emptied, too.
    ! grep -q " $directory/" /proc/mounts || { echo "something is still mounted in $directory" >&2; exit 1; }
    rm -rf --one-file-system "$directory"
}
trap finish EXIT
trap 'exit 1' INT TERM

# Containers' users from 0 up are the machine's from 3000000 up. The engine reads this once, when it starts.
for file in subuid subgid; do
    [ -e "/etc/$file" ] || : >"/etc/$file"
    cp "/etc/$file" "$directory/$file"
    echo nobody:3000000:65536 >>"/etc/$file"
done
dockerd --userns-remap=nobody:nogroup --host "unix://$directory/docker.sock" --pidfile "$directory/docker.pid" \
    --data-root "$directory/data" --exec-root "$directory/exec" --bridge none --iptables=false \
    >"$directory/log" 2>&1 &
engine=$!
DOCKER_HOST=unix://$directory/docker.sock
waited=0
until docker --host "$DOCKER_HOST" info >/dev/null 2>&1; do
    waited=$((waited + 1))
    if [ "$waited" -gt 300 ] || ! kill -0 "$engine" 2>/dev/null; then
        tail -n 20 "$directory/log" >&2
        exit 1
    fi
    sleep 0.2
done
docker --host "$DOCKER_HOST" info --format '{{.SecurityOptions}}' | grep -q name=userns
docker save isol8:python isol8:node isol8:bash | docker --host "$DOCKER_HOST" load

export DOCKER_HOST
cargo nextest run --workspace --locked --no-fail-fast -E "$tests"
