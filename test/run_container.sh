#!/usr/bin/env bash
# Runs the container image on a case with the platform's restrictions and checks exit code, stderr and masks; then runs it
# on the same case without its PSMA PET, which must be refused with one line and no output.
#
#   test/run_container.sh [--image NAME:TAG] [--case CASE_DIR] [--with-organs] [--key both|interface|socket]
#                         [--no-registration] [--model MODEL_TARBALL] [--dice-floor DICE] [--gpus]
#
# --image: <name>:<version> of pyproject.toml unless given.  --case: a folder of the training set's layout, with TTB as the
# truth; unless given, a phantom is made that the demo weights were never trained on.  --with-organs: fill the organ
# sockets, otherwise TotalSegmentator runs.  --model: a model tarball, put at /opt/ml/model as the platform does.
# --dice-floor: lowest Dice per tracer that passes.  --gpus: give the container all GPUs.
set -euo pipefail
stand=$PWD # where the user's relative paths count from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh

readonly time_limit_s=1500 # what the platform's 30 minutes leave when its own transfers are taken off
readonly phantom_seed=9001
readonly refused_socket=images/psma-pet-ga-68

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

say() { printf 'run_container: %s\n' "$*"; }

fail() {
    say "FAILED: $*"
    exit 1
}

image=$(project_name):$(project_version)
case_dir='' model='' dice_floor=0.5
with_organs=no layout=() gpus=()
while [ $# -gt 0 ]; do
    case $1 in
        --image) image=$2 && shift ;;
        --case) case_dir=$(cd "$stand" && realpath -- "$2") && shift ;;
        --with-organs) with_organs=yes ;;
        --key) layout+=(--key "$2") && shift ;;
        --no-registration) layout+=(--no-registration) ;;
        --model) model=$(cd "$stand" && realpath -- "$2") && shift ;;
        --dice-floor) dice_floor=$2 && shift ;;
        --gpus) gpus=(--gpus all) ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

[ "$with_organs" = yes ] || layout+=(--no-organs)

ensure_environment requirements.txt
work=$(mktemp -d)
container=''
clean_up() {
    [ -z "$container" ] || docker rm --force "$container" >/dev/null
    # What the image's user wrote may be out of this user's reach, so the engine removes it.
    if [ "$(id -u)" -ne 0 ]; then
        docker run --rm --network none --user 0 --volume "$work:/mnt" --entrypoint sh "$image" -c 'rm -rf /mnt/*'
    fi
    rm -rf "$work"
}
trap clean_up EXIT
chmod 755 "$work"

# run_image INPUT OUTPUT LOG: runs the image under the platform's flags; sets exit_code; LOG.out and LOG.err hold its streams.
run_image() {
    local input=$1 output=$2 log=$3
    rm -rf "$work/tmp"
    mkdir -p "$output" "$work/tmp"
    chmod 777 "$output"
    chmod 1777 "$work/tmp"
    # Created and started apart, so that the engine's own warnings do not mix with the program's stderr.
    container=$(docker create --platform=linux/amd64 --network none "${gpus[@]}" \
        --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 512 --memory 16g --memory-swap 16g \
        --shm-size 64m --ulimit data=16106127360 --volume "$input:/input:ro" --volume "$output:/output" \
        --volume "$work/tmp:/tmp" --volume "$work/model:/opt/ml/model:ro" "$image")
    exit_code=0
    timeout --kill-after=30 "$time_limit_s" docker start --attach "$container" >"$log.out" 2>"$log.err" || exit_code=$?
    [[ $exit_code -ne 124 && $exit_code -ne 137 ]] || fail "the run must end by itself within $time_limit_s s"
    docker rm --force "$container" >/dev/null
    container=''
}

show() { sed "s/^/    /" "$1"; }

if [ -z "$case_dir" ]; then
    say "making a phantom, seed $phantom_seed"
    .venv/bin/python -m training phantom --size demo --seeds "$phantom_seed" --output "$work/phantom"
    case_dir=$(dirname "$(find "$work/phantom" -type d -name PSMA)")
fi
mkdir "$work/model"
[ -z "$model" ] || tar --extract --gzip --file "$model" --directory "$work/model"
.venv/bin/python test/platform_case.py "$case_dir" "$work/input" "${layout[@]}"
cp -r "$work/input" "$work/refused"
rm -r "${work:?}/refused/$refused_socket"
chmod -R a+rX "$work/input" "$work/refused" "$work/model"

say "running $image on $case_dir"
started_s=$SECONDS
run_image "$work/input" "$work/output" "$work/good"
show "$work/good.out"
[ "$exit_code" -eq 0 ] || { show "$work/good.err" && fail "exit code must be 0, got $exit_code"; }
[ ! -s "$work/good.err" ] || { show "$work/good.err" && fail "a good run must leave stderr empty"; }
say "ended well after $((SECONDS - started_s)) s"
.venv/bin/python test/check_masks.py "$work/input" "$work/output" --truth "$case_dir" --dice-floor "$dice_floor" ||
    fail "the masks must pass"

say "running $image on the same case without its PSMA PET"
run_image "$work/refused" "$work/refused_output" "$work/refused_log"
show "$work/refused_log.err"
[ "$exit_code" -ne 0 ] || fail "exit code of a refused case must not be 0"
[ "$exit_code" -ne 137 ] || fail "a refused case must not run out of memory"
grep -v '^$' "$work/refused_log.err" | tail -n 1 | grep -q 'psma-pet' ||
    fail "the last line of stderr must name the missing socket"
[ -z "$(ls -A "$work/refused_output")" ] || fail "a refused case must leave no output"
say "passed"
