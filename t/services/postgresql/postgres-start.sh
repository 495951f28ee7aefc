#!/bin/bash
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# postgres-start.sh DIR PORT [tls]
#
# Starts a PostgreSQL server that listens on 127.0.0.1:PORT, and returns when it
# takes connections. DIR holds its log (postgresql.log, with each statement) and
# its process id; the data is made if it is new. Passwords are checked
# (SCRAM-SHA-256); the superuser is postgres. With tls it takes connections with
# TLS only.
#
# As root, the server runs as the user postgres, who has to get to the data.
#
# DIR/extra.conf: more settings; they win.
# CERTS: what ../kafka/gen-certs.sh made (DIR/certs, made if missing).
# CERT: server or expired, the certificate shown.
# See postgres-env.sh for POSTGRES_….
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=t/services/postgresql/postgres-env.sh
. "$here/postgres-env.sh"
[ $# -ge 2 ] || die "usage: postgres-start.sh DIR PORT [tls]"
port=$2 tls=${3:-}
mkdir -p "$1"
dir=$(cd "$1" && pwd)
data=${POSTGRES_DATA:-$dir/data}
absent "$dir"

if [ ! -e "$data/PG_VERSION" ]; then
    mkdir -p "$data"
    own "$data"
    # By a pipe of its own user's, so that the password is in no file.
    # shellcheck disable=SC2016 # the inner shell expands these
    if ! (cd "$data" && as_postgres sh -c 'echo "$PGPASSWORD" | "$@"' sh \
        "$POSTGRES_BIN/initdb" -D "$data" -U postgres -A scram-sha-256 \
        --pwfile=/dev/stdin -E UTF8 --locale=C.UTF-8 --no-sync) \
        >"$dir/initdb.log" 2>&1
    then
        cat "$dir/initdb.log" >&2
        die "$data can't be made"
    fi
fi

host=host
[ -z "$tls" ] || host=hostssl
cat >"$data/pg_hba.conf" <<END
$host all         all 127.0.0.1/32 scram-sha-256
$host replication all 127.0.0.1/32 scram-sha-256
END
# A value of a parameter may be long; what is asked for is short.
cat >"$data/usage.conf" <<'END'
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
shared_buffers = 64MB
max_wal_size = 2GB
timezone = 'UTC'
log_timezone = 'UTC'
log_statement = all
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %q%u@%d '
log_parameter_max_length = 200
END
if [ -n "$tls" ]; then
    certs=${CERTS:-$dir/certs}
    if [ ! -e "$certs/server.pem" ]; then
        "$here/../kafka/gen-certs.sh" "$certs"
    fi
    # The key must be the server's own, and nobody else's to read.
    cp "$certs/${CERT:-server}.key" "$data/server.key"
    cp "$certs/${CERT:-server}.crt" "$data/server.crt"
    chmod 600 "$data/server.key"
    own "$data/server.key" "$data/server.crt"
    echo "ssl = on" >>"$data/usage.conf"
fi
if [ -e "$dir/extra.conf" ]; then
    cat "$dir/extra.conf" >>"$data/usage.conf"
fi
own "$data/usage.conf" "$data/pg_hba.conf"
if ! grep -q usage.conf "$data/postgresql.conf"; then
    echo "include 'usage.conf'" >>"$data/postgresql.conf"
fi

serve "$dir" "$data" "$port"
