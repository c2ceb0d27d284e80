#!/usr/bin/env bash
# Tries faults that strike while the program runs, in the container image under the platform's restrictions: signals in
# each stage, full and read-only disks, spoilt weights, memory that runs out, TotalSegmentator that hangs or crashes.
# Prints what became of each; exit code 1 when a run did not end as it must.
#
#   test/run_faults.sh [--image NAME:TAG | --host] [--only REGEX] [--markdown FILE]
#
# --image: <name>:<version> of pyproject.toml unless given.  --host: without a container, on this machine.
# --only: faults whose name and stage match.  --markdown: write the table there, too.
set -euo pipefail
stand=$PWD # where the user's relative paths count from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

machine=(--image "$(project_name):$(project_version)")
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --image) machine=(--image "$2") && shift ;;
        --host) machine=() ;;
        --only) options+=(--only "$2") && shift ;;
        --markdown) options+=(--markdown "$(cd "$stand" && realpath -m -- "$2")") && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

ensure_environment requirements-dev.txt
PYTHONPATH=.:test exec .venv/bin/python -m faults "${machine[@]}" "${options[@]}"
