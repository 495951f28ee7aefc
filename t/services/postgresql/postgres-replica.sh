#!/bin/bash
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# postgres-replica.sh DIR PORT PRIMARY_PORT
#
# Copies the server on 127.0.0.1:PRIMARY_PORT, and starts the copy on PORT as a
# replica that follows it. "SELECT pg_promote()" there makes it a server of its
# own. It is stopped by postgres-stop.sh, and started again by this one, which
# then copies nothing. See postgres-env.sh for POSTGRES_….
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=t/services/postgresql/postgres-env.sh
. "$here/postgres-env.sh"
[ $# = 3 ] || die "usage: postgres-replica.sh DIR PORT PRIMARY_PORT"
port=$2 primary=$3
mkdir -p "$1"
dir=$(cd "$1" && pwd)
data=${POSTGRES_DATA:-$dir/data}
absent "$dir"

if [ ! -e "$data/PG_VERSION" ]; then
    mkdir -p "$data"
    chmod 700 "$data"
    own "$data"
    # -R writes down how to get to the primary, the password with it.
    if ! (cd "$data" && as_postgres "$POSTGRES_BIN/pg_basebackup" -D "$data" \
        -h 127.0.0.1 -p "$primary" -U postgres -R -X stream -c fast \
        --no-sync) >"$dir/basebackup.log" 2>&1
    then
        cat "$dir/basebackup.log" >&2
        die "the server on port $primary can't be copied"
    fi
fi
serve "$dir" "$data" "$port"
