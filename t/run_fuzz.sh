#!/bin/sh
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# Runs fuzzers, some at a time: t/run_fuzz.sh SECONDS JOBS FUZZER ...
# Each begins with the seeds in t/fuzz/corpus/<its name without fuzz_>, if there
# are any; what it finds goes into a directory beside it and is not kept.
set -eu
seconds=$1
jobs=$2
shift 2
[ $# -gt 0 ] || { echo "fuzz: no fuzzers" >&2; exit 1; }

one() {
    name=$(basename "$1")
    found=$(dirname "$1")/$name.found
    seeds=t/fuzz/corpus/${name#fuzz_}
    mkdir -p "$found"
    [ -d "$seeds" ] || seeds=
    # shellcheck disable=SC2086 # seeds may be nothing
    if "$1" -max_total_time="$seconds" -timeout=10 -max_len=20000 \
        -artifact_prefix="$found/crash-" "$found" $seeds \
        >"$found.log" 2>&1; then
        echo "fuzz: $name: ok: $(grep '^Done' "$found.log")"
    else
        cat "$found.log" >&2
        echo "fuzz: $name: FAILED" >&2
        return 1
    fi
}

if [ "$jobs" = only ]; then
    one "$1"
    exit
fi
printf '%s\n' "$@" | xargs -P "$jobs" -n 1 "$0" "$seconds" only
echo "fuzz: $# fuzzers, ${seconds} s each, none found anything"
