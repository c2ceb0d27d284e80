#!/usr/bin/env bash
# Builds the container image.
#
#   ./build.sh [--tag NAME:TAG] [--api exec|invoke]
#
# --tag: the image's tag, <name>:<version> of pyproject.toml unless given; export.sh saves what was built last under it.
# --api: how Grand Challenge runs the image. exec (unless given): one process for each case. invoke: the image has the
# label org.grand-challenge.api-method="invoke" and starts with `serve`, one process that is asked over HTTP, port 4743.
#
# Environment: BASE_IMAGE (any Debian bookworm with Python 3.11), BUILD_NETWORK (docker build --network),
# DOCKER_BUILDKIT=0 for the classic builder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=environment.sh
. ./environment.sh

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

version=$(project_version)
tag=$(project_name):$version
api='exec'
[[ ! ${1-} =~ ^(-h|--help)$ ]] || { usage && exit 0; }
while [ $# -gt 1 ]; do
    case $1 in
        --tag) tag=$2 ;;
        --api) api=$2 ;;
        *) break ;;
    esac
    shift 2
done
[ $# -eq 0 ] || { usage >&2 && exit 2; }
if [[ ! $api =~ ^(exec|invoke)$ ]]; then
    echo "build: --api must be exec or invoke, got $api" >&2
    exit 2
fi

docker build --platform linux/amd64 --target "$api" --tag "$tag" --build-arg "VERSION=$version" \
    ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} ${BUILD_NETWORK:+--network "$BUILD_NETWORK"} .
docker image inspect --format "$tag ($api): {{.Size}} bytes, {{.Os}}/{{.Architecture}}, user {{.Config.User}}" "$tag"
