#!/bin/sh
# Starts a server with sandboxes and one without, measures both beside the machine's own floors, then
# sessions, streams, files and the filtered network on a third, then the same jobs in containers and in gVisor
# where the engine has it, and writes docs/performance/.
# Usage: loadtest/suite.sh [OUT [FLAGS OF loadtest suite...]]
set -eu
cd "$(dirname "$0")/.."

out=${1:-docs/performance}
[ $# -eq 0 ] || shift
flags=$*
directory=$(mktemp -d)
ISOL8_API_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export ISOL8_API_KEY
servers=
# Only what is measured is kept warm.
stop() {
    for server in $servers; do kill "$server" 2>/dev/null || :; done
    wait
    servers=
}
trap 'stop; rm -rf "$directory"' EXIT

# start NAME FLAGS...: starts a server and sets url.
start() {
    name=$1
    shift
    ./target/release/isol8 serve --listen 127.0.0.1 --data-dir "$directory/$name" "$@" \
        >"$directory/$name.out" 2>"$directory/$name.log" &
    servers="$servers $!"
    until url=$(sed -n 's/.*listening on //p' "$directory/$name.out") && [ -n "$url" ]; do
        kill -0 "$!" 2>/dev/null || { cat "$directory/$name.log" >&2; exit 1; }
        sleep 0.1
    done
}

./target/release/isol8 build --base python --tag isol8-loadtest:numpy --install numpy --preload numpy
start sandboxes --port 3950 --max-concurrent 16
sandboxes=$url
# The second job with the same packages is measured, not the first.
./target/release/isol8 run --host "$sandboxes" -r python --install numpy -e 'print(1)'
start no-op --port 3951 --max-concurrent 256 --no-op
no_op=$url
mkdir -p "$out"
./target/release/loadtest suite --url "$sandboxes" --noop-url "$no_op" --out "$out" $flags
cat "$out/table.md"

# Sessions, streams, files and the filtered network, whose far end is on this machine: on a server of
# their own, with a slot for each stream.
stop
export ISOL8_POLICY__ALLOW_PRIVATE_ADDRESSES=127.0.0.0/8
start streams --port 3952 --max-concurrent 210
sleep 8
./target/release/loadtest surface --url "$url" --out "$out" \
    --redis-url "redis+unix://$directory/streams/redis.sock"

# The same jobs with the two kinds of isolation, each on a server of its own.
stop
if docker info --format '{{range $name, $_ := .Runtimes}}{{$name}} {{end}}' | grep -qw runsc; then
    start container --port 3953 --max-concurrent 16
    container=$url
    ISOL8_DEFAULTS__ISOLATION=gvisor
    export ISOL8_DEFAULTS__ISOLATION
    start gvisor --port 3954 --max-concurrent 16
    ./target/release/loadtest isolation --url "$container" --gvisor-url "$url" --out "$out"
fi
