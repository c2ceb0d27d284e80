#!/usr/bin/env bash
# Builds the container image.
#
#   ./build.sh [--tag NAME:TAG]     the tag is <name>:<version> of pyproject.toml unless given
#
# Environment: BASE_IMAGE (any Debian bookworm with Python 3.11), BUILD_NETWORK (docker build --network),
# DOCKER_BUILDKIT=0 for the classic builder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=environment.sh
. ./environment.sh

version=$(project_version)
tag=$(project_name):$version
case $#-${1-} in
    0-) ;;
    2---tag) tag=$2 ;;
    *)
        sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        [[ $1 = -h || $1 = --help ]] && exit 0 || exit 2
        ;;
esac

docker build --platform linux/amd64 --tag "$tag" --build-arg "VERSION=$version" \
    ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} ${BUILD_NETWORK:+--network "$BUILD_NETWORK"} .
docker image inspect --format "$tag: {{.Size}} bytes, {{.Os}}/{{.Architecture}}, user {{.Config.User}}" "$tag"
