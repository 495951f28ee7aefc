#!/bin/bash
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# postgres-stop.sh DIR [SIGNAL]: stops the server of DIR and waits for its end.
# INT ends connections (the default), TERM waits for them, QUIT ends them
# without a checkpoint; KILL is a crash of all its processes. One that takes
# over 20 s is killed: status 1.
set -euo pipefail
# shellcheck source=t/services/postgresql/postgres-env.sh
. "$(dirname "$0")/postgres-env.sh"
[ $# -ge 1 ] || die "usage: postgres-stop.sh DIR [SIGNAL]"
dir=$1 sig=${2:-INT}
[ -e "$dir/pid" ] || exit 0
pid=$(cat "$dir/pid")

# Each process of the server has a session of its own. A stopped one takes no
# signal but KILL, and the first must not make new ones meanwhile.
end_all() { # SIGNAL
    local all
    [ "$1" != KILL ] || kill -STOP "$pid" 2>/dev/null || true
    all="$(pgrep -P "$pid" || true)"
    if [ "$1" = KILL ]; then
        # shellcheck disable=SC2086 # they are several
        kill -KILL $all "$pid" 2>/dev/null || true
    else
        kill -"$1" "$pid" 2>/dev/null || true
        # shellcheck disable=SC2086
        kill -CONT $all "$pid" 2>/dev/null || true
    fi
}

end_all "$sig"
for ((i = 0; i < 400; i++)); do
    if ! alive "$pid"; then
        rm -f "$dir/pid"
        exit 0
    fi
    sleep 0.05
done
end_all KILL
rm -f "$dir/pid"
die "$dir: the server did not end within 20 s and was killed"
