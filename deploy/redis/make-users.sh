#!/bin/sh
# Makes the users of the fleet's Redis: `make-users.sh DIRECTORY` writes DIRECTORY/users.acl, for
# the server's `aclfile`, and for each user DIRECTORY/<user>.password. Passwords that are there
# are kept, so that it can be run again after a change of the rights.
set -eu

directory=${1:?usage: make-users.sh DIRECTORY}
rights=$(dirname "$0")/users.acl

umask 077
mkdir -p "$directory"
grep -v '^#' "$rights" | while read -r _ name rest; do
  if [ "$name" = default ]; then
    printf 'user default %s\n' "$rest"
    continue
  fi
  file=$directory/$name.password
  [ -s "$file" ] || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > "$file"
  hash=$(tr -d '\r\n' < "$file" | sha256sum | cut -d ' ' -f 1)
  # `resetpass` comes first: what follows is added.
  printf 'user %s %s\n' "$name" "$rest" | sed "s/ resetpass/ resetpass #$hash/"
done > "$directory/users.acl.new"
mv "$directory/users.acl.new" "$directory/users.acl"
