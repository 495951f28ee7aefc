#!/bin/sh
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# Do the requests to a gateway become events in Kafka, each exactly one? It
# sends 111 requests, which are metered like any others, and looks for their
# events by the X-Request-Id of the answers, so other traffic is no trouble.
#
#   API_KEY=… scripts/test-events.sh
#
# API_KEY         a key of the gateway; needed, and never shown
# GATEWAY_URL     the gateway (http://localhost:8080)
# TEST_PATH       what is asked for (/)
# HEALTH_PATH     what says whether the gateway is there (/healthz)
# KAFKA_BROKERS   HOST:PORT,… (localhost:9092)
# KAFKA_TOPIC     the events' topic (usage-events)
# KAFKA_OPTIONS   properties for kcat, NAME=VALUE with spaces between; a -X
#                 before each may be there or not. They stay off command lines.
# TEST_WAIT       seconds that events may take (15)
#
# Exit status: 0 all steps passed, 1 some failed, 2 wrong use. Needs curl and
# kcat. test-events.ps1 is the same for PowerShell 7.
set -u

fail() {
    echo "test-events: $*" >&2
    exit 2
}

case ${1-} in
'') ;;
-h | --help)
    sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
    exit 0
    ;;
*) fail "there is no option $1; --help says what there is" ;;
esac

url=${GATEWAY_URL:-http://localhost:8080}
url=${url%/}
brokers=${KAFKA_BROKERS:-localhost:9092}
topic=${KAFKA_TOPIC:-usage-events}
path=${TEST_PATH:-/}
health=${HEALTH_PATH:-/healthz}
wait=${TEST_WAIT:-15}
[ -n "${API_KEY:-}" ] || fail "API_KEY must be a key of the gateway"
case $API_KEY in
*[[:space:][:cntrl:]]*) fail "API_KEY has a space or control character" ;;
esac
case $path$health in
*[[:space:]\"\\]*) fail "TEST_PATH and HEALTH_PATH: a path, please" ;;
esac
case $wait in
*[!0-9]* | '') fail "TEST_WAIT=$wait: seconds, please" ;;
esac
for tool in curl kcat; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is not installed"
done

dir=$(umask 077 && mktemp -d "${TMPDIR:-/tmp}/test-events.XXXXXX") || exit 2
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
umask 077
: >"$dir/sent"

# --- what is said ------------------------------------------------------------

passed=0
failed=0
pass() {
    passed=$((passed + 1))
    echo "PASSED  $*"
}
no() {
    failed=$((failed + 1))
    echo "FAILED  $*"
}

# --- the tools ---------------------------------------------------------------

# The key is in a file that nobody else reads, not in the list of processes.
escaped=$(printf '%s' "$API_KEY" | sed 's/[\\"]/\\&/g')
printf 'header = "Authorization: Bearer %s"\n' "$escaped" >"$dir/key"

ask() { curl -q -sS --globoff --max-time 30 "$@" 2>"$dir/curl.err"; }

# kcat's configuration: a look must not make the topic.
{
    echo allow.auto.create.topics=false
    echo log_level=0
    set -f
    for word in ${KAFKA_OPTIONS:-}; do
        case $word in
        -X) ;;
        -X*) printf '%s\n' "${word#-X}" ;;
        *) printf '%s\n' "$word" ;;
        esac
    done
    set +f
} >"$dir/kcat"

# kcat would try for ever where it can't reach a broker.
kafka() {
    kcat -F "$dir/kcat" -b "$brokers" "$@" 2>"$dir/kcat.err" &
    kcat_pid=$!
    ticks=0
    while kill -0 "$kcat_pid" 2>/dev/null; do
        ticks=$((ticks + 1))
        if [ "$ticks" -gt 300 ]; then
            kill "$kcat_pid" 2>/dev/null
        fi
        sleep 0.1
    done
    wait "$kcat_pid"
}

why() { grep -v '^% Reading configuration' "$1" | tail -n 1; }

# offsets WHICH: a line "PARTITION OFFSET" for each; -1: the end, -2: the first
offsets() {
    set -- "$1" -Q
    n=0
    which=$1
    shift
    while [ "$n" -lt "$partitions" ]; do
        set -- "$@" -t "$topic:$n:$which"
        n=$((n + 1))
    done
    kafka "$@" | sed -n 's/^.* \[\([0-9]*\)\] offset \([0-9]*\)$/\1 \2/p'
}

total() { awk '{ n += $2 } END { print n + 0 }' "$1"; }

# --- requests ----------------------------------------------------------------

# From header lines to lines "REQUEST-ID STATUS", interim answers left out.
answers() {
    tr -d '\r' | awk '
        /^HTTP\// { status = $2; id = "" }
        tolower($1) == "x-request-id:" { id = $2 }
        /^$/ && status >= 200 && id != "" { print id, status; id = "" }'
}

# statuses FILE: "200: 9, 502: 1"
statuses() {
    awk '{ print $2 }' "$1" | sort | uniq -c |
        awk '{ printf "%s%s: %d", sep, $2, $1; sep = ", " }'
}

# --- events ------------------------------------------------------------------

# Lines "PARTITION OFFSET VALUE" since the start, up to now. All events of one
# key are in one partition, so after the first only that one is read.
since_start() {
    offsets -1 >"$dir/now"
    while read -r p end; do
        from=$(awk -v p="$p" '$1 == p { print $2 }' "$dir/before")
        if [ -n "$from" ] && [ "$end" -gt "$from" ] &&
            [ "${only:-$p}" = "$p" ]; then
            kafka -C -t "$topic" -p "$p" -o "$from" -c "$((end - from))" \
                -e -q -f '%p %o %s\n' </dev/null
        fi
    done <"$dir/now"
}

# find FILE: look until each request of the file has its event, as long as
# TEST_WAIT says. Sets found, twice and wrong (another status than the answer);
# the events are in $dir/events.
find_events() {
    began=$(date +%s)
    while :; do
        since_start | awk 'NR == FNR { status[$1] = $2; next }
            match($0, /"request_id":"[0-9a-f-]*"/) {
                id = substr($0, RSTART + 14, 36)
                if (!(id in status)) { next }
                wrong = !index($0, "\"status_code\":" status[id] ",")
                print (seen[id]++ ? "twice" : wrong ? "wrong" : "right"), $0
            }' "$1" - >"$dir/events"
        found=$(grep -vc '^twice' "$dir/events")
        took=$(($(date +%s) - began))
        if [ "$found" -ge "$(wc -l <"$1")" ] || [ "$took" -ge "$wait" ]; then
            break
        fi
        sleep 0.3
    done
    twice=$(grep -c '^twice' "$dir/events")
    wrong=$(grep -c '^wrong' "$dir/events")
}

# step NUMBER-AND-NAME COUNT FILE: judge the answers of a step, and its events
step() {
    n=$(wc -l <"$3" | tr -d ' ')
    cat "$3" >>"$dir/sent"
    said="answers with an X-Request-Id: $n of $2 ($(statuses "$3"))"
    if [ "$n" -eq 0 ]; then
        no "$1: no answer with an X-Request-Id; $(why "$dir/curl.err")"
        return 1
    fi
    if awk '$2 != 401 { exit 1 }' "$3"; then
        no "$1: turned away (401); is API_KEY right?"
        return 1
    fi
    if [ -z "$kafka_ok" ]; then
        no "$1: $said, but Kafka can't be looked into"
        return 1
    fi
    find_events "$3"
    said="$said; events: $found"
    if [ "$found" -lt "$n" ]; then
        no "$1: $said within $wait s"
    elif [ "$twice" -gt 0 ]; then
        no "$1: $said; repeated: $twice"
    elif [ "$wrong" -gt 0 ]; then
        no "$1: $said; with another status than the answer: $wrong"
    elif [ "$n" -lt "$2" ] || awk '$2 >= 500 { bad = 1 }
        END { exit !bad }' "$3"; then
        no "$1: $said"
    else
        pass "$1: $said"
        return 0
    fi
    return 1
}

# --- the steps ---------------------------------------------------------------

echo "gateway $url, Kafka $brokers, topic $topic"

kafka_ok=
if ! kafka -L -t "$topic" -m 10 >"$dir/metadata"; then
    no "1. health of Kafka: it doesn't answer; $(why "$dir/kcat.err")"
else
    count=$(sed -n 's/^ \([0-9]*\) brokers:$/\1/p' "$dir/metadata")
    partitions=$(sed -n \
        's/^  topic "[^"]*" with \([0-9]*\) partitions:.*/\1/p' \
        "$dir/metadata")
    without=$(grep -c '^    partition [0-9]*, leader -1' "$dir/metadata")
    if [ "${partitions:-0}" -eq 0 ]; then
        no "1. health of Kafka: there is no topic $topic" \
            "(usagectl init-kafka makes it)"
    elif [ "$without" -gt 0 ]; then
        no "1. health of Kafka: partitions: $partitions, without a leader:" \
            "$without"
    elif ! offsets -1 >"$dir/before" ||
        [ "$(wc -l <"$dir/before")" -ne "$partitions" ]; then
        no "1. health of Kafka: the topic can't be read;" \
            "$(why "$dir/kcat.err")"
    else
        kafka_ok=1
        pass "1. health of Kafka: brokers: $count, partitions: $partitions"
    fi
fi

gateway_ok=
if ! code=$(ask -o /dev/null -w '%{http_code}' "$url$health"); then
    no "2. health of the gateway: it doesn't answer; $(why "$dir/curl.err")"
elif [ "$code" -ge 500 ]; then
    no "2. health of the gateway: $health is answered with $code"
else
    gateway_ok=1
    pass "2. health of the gateway: $health is answered with $code"
fi

go_on=
if [ -z "$gateway_ok" ]; then
    no "3. one request: not tried, the gateway doesn't answer"
else
    ask -K "$dir/key" -o /dev/null -D "$dir/head" "$url$path"
    answers <"$dir/head" >"$dir/one"
    if step "3. one request" 1 "$dir/one"; then
        go_on=1
        only=$(awk 'NR == 1 { print $2 }' "$dir/events")
    fi
fi

if [ -z "$go_on" ]; then
    no "4. burst of 10: not tried, since one request failed"
    no "5. batch of 100: not tried, since one request failed"
else
    pids=
    for i in 0 1 2 3 4 5 6 7 8 9; do
        ask -K "$dir/key" -o /dev/null -D "$dir/head.$i" "$url$path" &
        pids="$pids $!"
    done
    # shellcheck disable=SC2086 # a list of words
    wait $pids
    cat "$dir"/head.? | answers >"$dir/ten"
    step "4. burst of 10" 10 "$dir/ten"

    n=0
    while [ "$n" -lt 100 ]; do
        printf 'url = "%s"\noutput = /dev/null\n' "$url$path"
        n=$((n + 1))
    done >"$dir/urls"
    ask -K "$dir/key" -K "$dir/urls" -D - | answers >"$dir/hundred"
    step "5. batch of 100" 100 "$dir/hundred"
fi

if [ -z "$kafka_ok" ]; then
    no "6. messages before and after: Kafka can't be looked into"
    no "7. size of the topic: Kafka can't be looked into"
    no "8. sample events: Kafka can't be looked into"
else
    find_events "$dir/sent"
    sent=$(wc -l <"$dir/sent" | tr -d ' ')
    before=$(total "$dir/before")
    offsets -1 >"$dir/after"
    after=$(total "$dir/after")
    said="$before, then $after; requests: $sent, events: $found"
    said="$said, repeated: $twice"
    if [ "$sent" -eq 111 ] && [ "$found" -eq 111 ] && [ "$twice" -eq 0 ] &&
        [ $((after - before)) -ge 111 ]; then
        pass "6. messages before and after: $said"
    else
        no "6. messages before and after: $said"
    fi

    offsets -2 >"$dir/first"
    kept=$((after - $(total "$dir/first")))
    each=$(sed 's/^[a-z]* [0-9]* [0-9]* //' "$dir/events" |
        awk '{ n += length($0) } END { print NR ? int(n / NR) : 0 }')
    said="messages: $kept, partitions: $partitions"
    if [ "$(wc -l <"$dir/after")" -ne "$partitions" ] ||
        [ "$(wc -l <"$dir/first")" -ne "$partitions" ]; then
        no "7. size of the topic: Kafka doesn't answer any more"
    elif [ "$each" -gt 0 ]; then
        pass "7. size of the topic: $said, about $((kept * each / 1024)) KiB" \
            "of values"
    else
        pass "7. size of the topic: $said"
    fi

    form='"request_id":"[^"]*","organization_id":"[^"]*","api_key_id":"[^"]*"'
    form=$form',"endpoint":".*","method":"[^"]*","status_code":[0-9]*'
    form=$form',"response_time_ms":[0-9]*,"timestamp":"[^"]*"'
    form=$form',"billable":(true|false)'
    good=$(grep -Ec "$form" "$dir/events")
    if [ "$good" -gt 0 ] && [ "$good" -eq "$(wc -l <"$dir/events")" ]; then
        pass "8. sample events: all of ours have the nine fields"
    else
        no "8. sample events: with the nine fields: $good of $found"
    fi
    head -n 3 "$dir/events" | sed 's/^[a-z]* [0-9]* [0-9]* /  /'
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
