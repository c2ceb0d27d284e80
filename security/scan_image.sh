#!/usr/bin/env bash
# Scans the container image: no secrets in its files, settings and history, no setuid or setgid files, nothing that
# everybody can change, nothing outside of its home that its user can change, and a user who is not root.
#
#   security/scan_image.sh [NAME:TAG]       <name>:<version> of pyproject.toml unless given
#
# Exit code: 0 when nothing was found, 1 otherwise; each finding is a line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh

case ${1-} in
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac
image=${1:-$(project_name):$(project_version)}

user=$(docker image inspect --format '{{.Config.User}}' "$image")
case $user in
    '' | root | 0 | 0:*)
        echo "scan: the image's user must not be root, got '$user'"
        exit 1
        ;;
esac
{
    docker image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$image"
    docker image history --no-trunc --format '{{.CreatedBy}}' "$image"
} | docker run --rm --interactive --network none --read-only --user 0 --entrypoint python \
    --volume "$PWD/security/scan.py:/mnt/scan.py:ro" "$image" -B /mnt/scan.py --user "${user%%:*}"
echo "scan: $image, nothing found"
