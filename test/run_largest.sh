#!/usr/bin/env bash
# The two largest real PET grids (352 x 512 x 512 and 1206 x 180 x 180 voxels) under the platform's limit on memory: each
# must end well, leave correct masks, and stay below the limit. A long test: with the demo networks on two cores 2 to 5
# minutes per case and mode, with networks of real size up to an hour.
#
#   test/run_largest.sh [--container IMAGE] [--cases "largest-psma largest-fdg"] [--modes "exact balanced"]
#                       [--real plain|resenc_m|resenc_l] [--backend auto|torch|openvino] [--limit-gib GIB] [--work DIR]
#
# --container: run this image with the platform's flags; otherwise the program runs here under RLIMIT_DATA.  --cases: names
# of the benchmark's phantoms.  --real: networks of that size with random weights, one member, one fold, no mirroring,
# instead of the demo networks.  --limit-gib: RLIMIT_DATA, 15 unless given, as on the platform.  --work: where cases are
# made and kept for the next time (4 GB); a temporary folder unless given.
set -euo pipefail
stand=$PWD # where the user's relative paths count from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh

readonly time_limit_s=7200

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

say() { printf 'run_largest: %s\n' "$*"; }

fail() {
    say "FAILED: $*"
    exit 1
}

image='' cases='largest-psma largest-fdg' modes='exact balanced' real='' backend=auto limit_gib=15 kept=''
while [ $# -gt 0 ]; do
    case $1 in
        --container) image=$2 && shift ;;
        --cases) cases=$2 && shift ;;
        --modes) modes=$2 && shift ;;
        --real) real=$2 && shift ;;
        --backend) backend=$2 && shift ;;
        --limit-gib) limit_gib=$2 && shift ;;
        --work) kept=$(cd "$stand" && mkdir -p -- "$2" && realpath -- "$2") && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

ensure_environment requirements.txt
scratch=$(mktemp -d)
work=${kept:-$scratch}
container=''
clean_up() {
    [ -z "$container" ] || docker rm --force "$container" >/dev/null
    # What the image's user wrote may be out of this user's reach, so the engine removes it.
    if [ -n "$image" ] && [ "$(id -u)" -ne 0 ]; then
        docker run --rm --network none --user 0 --volume "$scratch:/mnt" --entrypoint sh "$image" -c 'rm -rf /mnt/*'
    fi
    rm -rf "$scratch"
}
trap clean_up EXIT
chmod 755 "$scratch"

# run_here INPUT OUTPUT LOG OPTION...: runs the program here; sets exit_code and peak.
run_here() {
    local input=$1 output=$2 log=$3
    shift 3
    exit_code=0
    peak=$(timeout --kill-after=30 "$time_limit_s" .venv/bin/python test/memory_peak.py --limit-gib "$limit_gib" \
        --log "$log" -- .venv/bin/python inference.py --input "$input" --output "$output" "$@") || exit_code=$?
}

# run_container INPUT OUTPUT LOG OPTION...: runs the image under the platform's flags; sets exit_code and peak.
run_container() {
    local input=$1 output=$2 log=$3
    shift 3
    rm -rf "$scratch/tmp"
    mkdir -p "$scratch/tmp" "$scratch/model"
    chmod 1777 "$scratch/tmp"
    chmod -R a+rX "$scratch/model" "$input"
    # The container may hold 1 GiB more than it may ask for, as an instance of the platform does.
    container=$(docker create --platform=linux/amd64 --network none --read-only --cap-drop ALL \
        --security-opt no-new-privileges --pids-limit 512 --memory "$((limit_gib + 1))g" \
        --memory-swap "$((limit_gib + 1))g" --shm-size 64m --ulimit "data=$((limit_gib << 30))" \
        --volume "$input:/input:ro" --volume "$output:/output" --volume "$scratch/tmp:/tmp" \
        --volume "$scratch/model:/opt/ml/model:ro" "$image" --timings /tmp/timings.json "$@")
    exit_code=0
    timeout --kill-after=30 "$time_limit_s" docker start --attach "$container" >"$log" 2>&1 || exit_code=$?
    docker rm --force "$container" >/dev/null
    container=''
    peak=$(grep -o '"peak_host_mib": *[0-9.]*' "$scratch/tmp/timings.json" || echo 'no timings')
}

options=(--organs given --time-limit none --device cpu --backend "$backend")
if [ -n "$real" ]; then
    say "making $real with random weights"
    PYTHONPATH=. .venv/bin/python test/real_manifest.py "$real" "$scratch/model"
    [ -n "$image" ] || options+=(--manifest "$scratch/model/manifest.toml") # the image finds it by itself
fi

for case in $cases; do
    say "$case: making the case, unless it is there"
    folder=$(PYTHONPATH=. .venv/bin/python -c '
import sys
from pathlib import Path
from benchmark.cases import CaseName, make_case
print(make_case(CaseName(sys.argv[1]), work=Path(sys.argv[2])).folder)' "$case" "$work")
    rm -rf "$scratch/input"
    .venv/bin/python test/platform_case.py "$folder" "$scratch/input"
    for mode in $modes; do
        output=$scratch/output-$case-$mode
        mkdir "$output"
        chmod 777 "$output"
        started_s=$SECONDS
        "run_$([ -n "$image" ] && echo container || echo here)" \
            "$scratch/input" "$output" "$scratch/log" "${options[@]}" --mode "$mode"
        [ "$exit_code" -eq 0 ] || { tail -n 30 "$scratch/log" && fail "$case $mode: exit code must be 0, got $exit_code"; }
        grep -i 'memory' "$scratch/log" | sed 's/^/    /' || true
        .venv/bin/python test/check_masks.py "$scratch/input" "$output" || fail "$case $mode: the masks must pass"
        say "$case $mode ${real:-demo networks}: $((SECONDS - started_s)) s; $peak"
        rm -rf "$output"
    done
done
say "passed"
