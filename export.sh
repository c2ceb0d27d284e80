#!/usr/bin/env bash
# Writes what Grand Challenge takes as uploads into dist/ (DIST=... for another folder), and prints sizes and SHA-256.
#
#   ./export.sh [all|image|model] [MANIFEST]
#
# image: <name>-<version>.tar.gz, the container image that build.sh made.
# model: <name>-<version>-model.tar.gz, the manifest (resources/demo.toml unless given) as manifest.toml with the weight
#        folders that it names beside it; the platform extracts it to /opt/ml/model, where it wins over the image's own.
set -euo pipefail

parts=${1:-all}
if [[ $# -gt 2 || ! $parts =~ ^(all|image|model)$ ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ $parts = -h || $parts = --help ]] && exit 0 || exit 2
fi
# Relative paths count from where the user stands, dist from the repository.
dist=${DIST:+$(realpath -m -- "$DIST")}
dist=${dist:-dist}
manifest=$(realpath -- "${2:-$(dirname "${BASH_SOURCE[0]}")/resources/demo.toml}")
if [ ! -f "$manifest" ]; then
    echo "export: manifest file is missing, got $manifest" >&2
    exit 1
fi

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=environment.sh
. ./environment.sh
name=$(project_name)
version=$(project_version)
readonly image_file=$dist/$name-$version.tar.gz model_file=$dist/$name-$version-model.tar.gz

export_image() {
    local compressor=gzip
    docker image inspect --format "Saving $name:$version, built on {{index .Config.Labels \"org.opencontainers.image.base.name\"}}" \
        "$name:$version"
    if command -v pigz >/dev/null; then compressor=pigz; fi
    docker save "$name:$version" | "$compressor" --no-name >"$image_file.part"
    mv "$image_file.part" "$image_file"
}

# The same files give the same bytes. `python -m training pack --tarball` writes it with the same lines.
export_model() {
    local python=.venv/bin/python
    is_right_python "$python" || python=$(find_python)
    echo "Packing $manifest"
    "$python" -m training.weights.tarball "$manifest" "$model_file" --overwrite
}

# A file has its name only when it is whole.
trap 'rm -f "$image_file.part"' EXIT
mkdir -p "$dist"
written=()
if [ "$parts" != model ]; then export_image; written+=("$image_file"); fi
if [ "$parts" != image ]; then export_model; written+=("$model_file"); fi
stat --format='%n: %s bytes' "${written[@]}"
sha256sum "${written[@]}"
