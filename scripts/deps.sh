#!/bin/sh
# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# Installs what a part of the project needs, on Debian 12 and its kin.
#
#   scripts/deps.sh [--list] build|demo|kafka|test|bench ...
#
# build: make and make install; demo: what make demo runs; kafka: a real Kafka
# beside it (make demo KAFKA=1); test: all of make test; bench: all of make
# bench. Where everything is there already it does
# nothing, needs no root and no network. As somebody else than root it prints
# what is missing and ends with status 1. --list only names the packages.
set -eu

# apache2-bin is httpd and its modules; the apache2 package would also start a
# server on port 80, which nothing here needs.
build="make gcc libc6-dev apache2-dev libapr1-dev libaprutil1-dev \
libjson-c-dev libpq-dev librdkafka-dev libssl-dev zlib1g-dev"
demo="$build apache2-bin python3 curl procps"
# Maven fetches Kafka's jars.
kafka="$demo openjdk-17-jre-headless maven kcat openssl ca-certificates"
# The server's programs; that Debian may start a server of its own with them
# (on port 5432) is no harm.
postgres="postgresql-15 postgresql-client-15"
# python3-kafka reads what was written, docker-compose checks a file.
test="$kafka python3-kafka python3-snappy python3-yaml docker-compose \
libcmocka-dev python3-pytest python3-pytest-xdist python3-h2 \
python3-websockets python3-pyflakes nghttp2-client nginx-light wrk valgrind \
strace clang clang-format-16 clang-tidy libclang-rt-14-dev shellcheck \
prometheus groff-base $postgres"
bench="$kafka python3-kafka python3-snappy nginx-light nghttp2-client wrk \
valgrind $postgres"

usage() {
    echo "usage: $0 [--list] build|demo|kafka|test|bench ..." >&2
    exit 2
}

list=
wanted=
for arg in "$@"; do
    case $arg in
    --list) list=1 ;;
    build) wanted="$wanted $build" ;;
    demo) wanted="$wanted $demo" ;;
    kafka) wanted="$wanted $kafka" ;;
    test) wanted="$wanted $test" ;;
    bench) wanted="$wanted $bench" ;;
    *) usage ;;
    esac
done
[ -n "$wanted" ] || usage
wanted=$(echo "$wanted" | xargs -n 1 | sort -u)

if [ -n "$list" ]; then
    echo "$wanted"
    exit 0
fi

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "deps: this is no Debian; what is needed is called there:" >&2
    echo "$wanted" | tr '\n' ' ' >&2
    echo >&2
    exit 0
fi

# dpkg-query knows packages that were removed, too; only "installed" counts.
lacking() {
    for name in $wanted; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) \
            || state=
        [ "$state" = installed ] || echo "$name"
    done
}

missing=$(lacking | tr '\n' ' ')
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "deps: missing: $missing" >&2
    echo "deps: run as root: apt-get install $missing" >&2
    exit 1
fi

echo "deps: installing: $missing"
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # both are lists of words
if ! { $apt update && $apt install -y --no-install-recommends $missing; } \
    >"$log" 2>&1; then
    cat "$log" >&2
    echo "deps: apt-get failed" >&2
    exit 1
fi

missing=$(lacking | tr '\n' ' ')
if [ -n "$missing" ]; then
    echo "deps: still missing: $missing" >&2
    exit 1
fi
