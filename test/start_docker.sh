#!/usr/bin/env bash
# Makes sure that a Docker engine answers and that a base image for the build exists; prints the base image's name.
#
#   BASE_IMAGE=$(test/start_docker.sh)
#
# Progress goes to stderr, so that stdout holds nothing but the name. An engine that answers already is used as it is.
# Otherwise Debian's docker.io is installed (as root) and dockerd is started with options that work inside a
# restricted machine; its process id is then in $DOCKERD_PID_FILE. An engine that was there already pulls the usual base
# image. With an engine started here, or when the pull fails, a Debian bookworm with Python 3.11 is made with debootstrap.
# That one trusts the machine's certificates and holds the machine's pip settings: it is for tests, never publish an
# image built on it.
set -euo pipefail

readonly usual_base_image=${BASE_IMAGE:-python:3.11-slim-bookworm}
readonly test_base_image=psma-fdg-ttb-test-base:bookworm
readonly debian_mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
readonly ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
readonly dockerd_pid_file=${DOCKERD_PID_FILE:-/tmp/psma-fdg-ttb-dockerd.pid}
readonly dockerd_log=${DOCKERD_LOG:-/tmp/psma-fdg-ttb-dockerd.log}
readonly engine_start_limit_s=60
readonly pull_limit_s=300
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository

say() { printf 'start_docker: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -- "$@"; fi
}

install_packages() {
    command -v apt-get >/dev/null || fail "no Docker engine: installing one needs Debian's apt-get; install Docker yourself"
    say "installing $*"
    as_root apt-get update -qq >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

has_engine() { docker version >/dev/null 2>&1; }

start_dockerd() {
    say "starting dockerd, log in $dockerd_log"
    # No bridge and no packet filter rules: containers run with --network none, builds with --network host.
    as_root setsid dockerd --bridge=none --iptables=false --ip6tables=false --pidfile "$dockerd_pid_file" \
        </dev/null >"$dockerd_log" 2>&1 &
    for ((second = 0; second < engine_start_limit_s; second++)); do
        has_engine && return
        sleep 1
    done
    tail -n 20 "$dockerd_log" >&2
    fail "dockerd must answer within $engine_start_limit_s s, see $dockerd_log"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# The machine's pip settings that still mean something in another file system: no local folders.
write_pip_settings() {
    local python=$1 key value words
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n'
    for key in index-url extra-index-url trusted-host proxy; do
        value=$("$python" -m pip config get "global.$key" 2>/dev/null) || continue
        words=()
        for word in $value; do
            case $word in file:* | /*) ;; *) words+=("$word") ;; esac
        done
        [ "${#words[@]}" -eq 0 ] || printf '%s = %s\n' "$key" "${words[*]}"
    done
}

make_test_base_image() {
    local root python
    command -v debootstrap >/dev/null || install_packages debootstrap debian-archive-keyring
    root=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder's name is wanted now
    trap "as_root rm -rf '$root'" EXIT
    say "making $test_base_image with debootstrap"
    as_root debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" \
        "$debian_mirror" >&2
    as_root cp "$ca_bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    python=$repository/.venv/bin/python
    [ -x "$python" ] || python=python3
    write_pip_settings "$python" | as_root tee "$root/etc/pip.conf" >/dev/null
    as_root tar -C "$root" --numeric-owner --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        --exclude='./proc/*' --exclude='./sys/*' -c . |
        docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
            - "$test_base_image" >&2
}

if has_engine; then
    say "using the Docker engine that answers"
    can_pull=yes
else
    can_pull=no
    command -v dockerd >/dev/null || install_packages docker.io
    # The package starts its own service where there is an init system.
    has_engine || start_dockerd
fi

if has_image "$usual_base_image"; then
    base_image=$usual_base_image
elif has_image "$test_base_image"; then
    base_image=$test_base_image
elif [ "$can_pull" = yes ] && say "pulling $usual_base_image" && timeout "$pull_limit_s" docker pull --quiet "$usual_base_image" >&2; then
    base_image=$usual_base_image
else
    make_test_base_image
    base_image=$test_base_image
fi
say "base image: $base_image"
printf '%s\n' "$base_image"
