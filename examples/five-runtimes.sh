#!/bin/sh
# Starts a server, runs one program in each runtime through its HTTP API, and stops it again.
# Usage: five-runtimes.sh PATH-TO-ISOL8
set -eu

isol8=${1:-isol8}
directory=$(mktemp -d)
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

ISOL8_API_KEY=$key "$isol8" serve --port 3900 --listen 127.0.0.1 --data-dir "$directory/data" \
    >"$directory/out" 2>"$directory/log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -rf "$directory"' EXIT

until url=$(sed -n 's/.*listening on //p' "$directory/out") && [ -n "$url" ]; do
    kill -0 "$server" 2>/dev/null || { cat "$directory/log" >&2; exit 1; }
    sleep 0.1
done

run() {
    printf '%-7s ' "$1"
    curl --silent --show-error --fail-with-body --max-time 60 "$url/execute" \
        --header "Authorization: Bearer $key" \
        --data "{\"request\":{\"runtime\":\"$1\",\"code\":\"$2\"}}"
    echo
}

run python 'print(6*7)'
run node 'console.log(6*7)'
run bun 'console.log(6*7)'
run deno 'console.log(6*7)'
run bash 'echo $((6*7))'
