#!/usr/bin/env bash
# Writes a bill of materials (CycloneDX 1.6, JSON): every Python package, with the SHA-256 of the file that it was
# installed from, and with --image the base image's Debian packages, too.
#
#   security/sbom.sh [--image NAME:TAG | --environment VENV] [--output FILE]
#
# Unless given: the packages of .venv, and dist/<name>-<version>.cdx.json. The same packages give the same bytes.
set -euo pipefail
stand=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh
# shellcheck source=security/tools.sh
. security/tools.sh

image='' environment=.venv output=dist/$(project_name)-$(project_version).cdx.json
while [ $# -gt 0 ]; do
    case $1 in
        --image) image=$2 && shift ;;
        --environment) environment=$(cd "$stand" && realpath -- "$2") && shift ;;
        --output) output=$(cd "$stand" && realpath -m -- "$2") && shift ;;
        *)
            sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            [[ $1 = -h || $1 = --help ]] && exit 0 || exit 2
            ;;
    esac
    shift
done

tools=$(ensure_tools)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$(dirname "$output")"
debian=()
if [ -n "$image" ]; then
    # What says which packages there are, without the packages: cyclonedx-bom then runs outside of the image.
    environment=$work/venv
    "$tools/bin/python" -m venv --without-pip "$environment"
    in_image() { docker run --rm --network none --read-only --entrypoint sh "$image" -c "$1"; }
    # shellcheck disable=SC2016  # the image's shell is to see it
    in_image 'cd "$(dirname "$(dirname "$(command -v python)")")"/lib/python3.11/site-packages && tar -c ./*.dist-info' |
        tar -x --no-same-owner --directory "$environment/lib/python3.11/site-packages"
    # shellcheck disable=SC2016  # these are dpkg's
    in_image 'dpkg-query --show --showformat "\${Package}\t\${Version}\t\${Architecture}\n"' >"$work/debian"
    debian=(--debian "$work/debian")
fi
PYTHONWARNINGS=ignore "$tools/bin/cyclonedx-py" environment --output-reproducible --pyproject pyproject.toml --mc-type application \
    --output-format JSON --spec-version 1.6 --output-file "$work/bom.json" "$environment/bin/python"
"$tools/bin/python" -m security.sbom "$work/bom.json" "$output" --lock requirements.lock "${debian[@]}"
