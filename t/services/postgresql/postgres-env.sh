#!/bin/bash
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# Sourced by the other scripts: where PostgreSQL is, and how it is run.
#
# POSTGRES_BIN       the server's programs (the newest in /usr/lib/postgresql,
#                    else those in PATH)
# POSTGRES_PASSWORD  of the superuser postgres (postgres-secret)
# POSTGRES_DATA      where the data goes (DIR/data)
# POSTGRES_SECONDS   how long a start may take (60)
if [ -z "${POSTGRES_BIN:-}" ]; then
    POSTGRES_BIN=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null |
        sort -V | tail -1)
    POSTGRES_BIN=$(dirname "${POSTGRES_BIN:-$(command -v initdb || true)}")
fi
export PGPASSWORD=${POSTGRES_PASSWORD:-postgres-secret}
# What the caller's own psql is set to is not meant for these servers.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGSERVICE PGSSLMODE PGOPTIONS \
    PGSSLROOTCERT

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

[ -x "$POSTGRES_BIN/initdb" ] ||
    die "PostgreSQL's server is missing: scripts/deps.sh test"

# The server refuses to be root. Then it is the user that Debian made for it,
# and enters its data directly, wherever that is.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --init-groups "$@"
    else
        "$@"
    fi
}

# own FILE...: they are the server's.
own() {
    [ "$(id -u)" != 0 ] || chown -R postgres:postgres "$@"
}

# alive PID: runs. A zombie that a slow init has yet to reap does not.
alive() {
    local state
    state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 1
    [ "${state%% *}" != Z ]
}

# absent DIR: no server runs there.
absent() {
    if [ -e "$1/pid" ] && alive "$(cat "$1/pid")"; then
        die "$1: a server runs there already"
    fi
}

# serve DIR DATA PORT: start it, and return when it takes connections.
serve() {
    local dir=$1 data=$2 port=$3 log=$1/postgresql.log from pid i run
    # A server that crashed leaves this, and the next takes a zombie of that
    # number for one that runs.
    rm -f "$data/postmaster.pid"
    touch "$log"
    from=$(($(wc -l <"$log") + 1))
    # A session of its own, so that Ctrl-C at a test suite leaves it to the
    # suite to stop it. Each program becomes the next, so the process id stays.
    run=(setsid)
    if [ "$(id -u)" = 0 ]; then
        run+=(setpriv --reuid=postgres --regid=postgres --init-groups)
    fi
    cd "$data" || die "$data can't be entered"
    "${run[@]}" "$POSTGRES_BIN/postgres" -D "$data" -p "$port" \
        </dev/null >>"$log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/pid"
    for ((i = 0; i < 20 * ${POSTGRES_SECONDS:-60}; i++)); do
        if ! alive "$pid"; then
            rm -f "$dir/pid"
            tail -n +"$from" "$log" | tail -20 >&2
            die "PostgreSQL ended at its start"
        fi
        if "$POSTGRES_BIN/pg_isready" -q -h 127.0.0.1 -p "$port" -t 1; then
            return
        fi
        sleep 0.05
    done
    kill -QUIT "$pid"
    rm -f "$dir/pid"
    tail -20 "$log" >&2
    die "PostgreSQL did not start in time"
}
