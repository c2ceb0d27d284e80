#!/usr/bin/env bash
# Runs the image of ./build.sh --api invoke with the platform's restrictions as the platform does: waits until /health says
# yes, has several cases run one after the other in one process, wiping the folders in between, one of them bad, and stops
# it. Checks every answer, the masks, stderr, and that it ends within 5 s.
#
#   test/run_service.sh [--image NAME:TAG] [--case CASE_DIR] [--with-organs] [--invokes N] [--model MODEL_TARBALL]
#                       [--dice-floor DICE] [--gpus]
#
# --image: <name>:<version> of pyproject.toml unless given; it must have the label of the HTTP way.  --case: a folder of the
# training set's layout, with TTB as the truth; unless given, a phantom is made that the demo weights were never trained
# on.  --with-organs: fill the organ sockets, otherwise TotalSegmentator runs.  --invokes: how often the good case is run,
# 3 unless given; the bad one comes after the first.  --model: a model tarball, put at /opt/ml/model as the platform does.
# --dice-floor: lowest Dice per tracer that passes.  --gpus: give the container all GPUs.
set -euo pipefail
stand=$PWD # where the user's relative paths count from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh

readonly health_limit_s=300 # the platform's
readonly case_limit_s=1500  # what the platform's 30 minutes leave when its own transfers are taken off
readonly end_limit_s=5
readonly phantom_seed=9001
readonly label=org.grand-challenge.api-method
readonly refused_socket=images/psma-pet-ga-68

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

say() { printf 'run_service: %s\n' "$*"; }

fail() {
    say "FAILED: $*"
    [ -z "$container" ] || docker logs "$container" 2>&1 | tail -n 40 | sed 's/^/    /'
    exit 1
}

image=$(project_name):$(project_version)
case_dir='' model='' dice_floor=0.5 invokes=3
layout=(--no-organs) gpus=()
while [ $# -gt 0 ]; do
    case $1 in
        --image) image=$2 && shift ;;
        --case) case_dir=$(cd "$stand" && realpath -- "$2") && shift ;;
        --with-organs) layout=() ;;
        --invokes) invokes=$2 && shift ;;
        --model) model=$(cd "$stand" && realpath -- "$2") && shift ;;
        --dice-floor) dice_floor=$2 && shift ;;
        --gpus) gpus=(--gpus all) ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

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

# ask METHOD PATH LIMIT_S: prints the status, or 000; the container has no network that could be reached from outside.
ask() {
    docker exec "$container" python -c '
import http.client, json, sys
method, path, limit_s = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 4743, timeout=float(limit_s))
try:
    connection.request(method, path)
    response = connection.getresponse()
    detail = json.loads(response.read() or b"{}").get("detail", "")
except OSError as error:
    print("000", error)
else:
    print(response.status, detail)
' "$@"
}

# fill CASE: wipes /input and /output, and puts a case into /input; the folders themselves stay, as a mount must.
fill() {
    find "$work/input" -mindepth 1 -delete
    docker exec "$container" sh -c 'rm -rf /output/*' # whose files they are
    cp -r "$1/." "$work/input"
    chmod -R a+rX "$work/input"
}

# expect STATUS METHOD PATH LIMIT_S: asks, and fails on another status; sets `detail`.
expect() {
    local wanted=$1 status
    shift
    read -r status detail <<<"$(ask "$@")"
    say "$1 $2: $status $detail"
    [ "$status" = "$wanted" ] || fail "$1 $2 must answer $wanted, got $status $detail"
}

[ "$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image")" = invoke ] ||
    fail "$image must have the label $label=invoke; build it with ./build.sh --api invoke"
if [ -z "$case_dir" ]; then
    say "making a phantom, seed $phantom_seed"
    .venv/bin/python -m training phantom --size demo --seeds "$phantom_seed" --output "$work/phantom"
    case_dir=$(dirname "$(find "$work/phantom" -type d -name PSMA)")
fi
mkdir "$work/model" "$work/input" "$work/output" "$work/tmp"
chmod 777 "$work/output"
chmod 1777 "$work/tmp"
[ -z "$model" ] || tar --extract --gzip --file "$model" --directory "$work/model"
.venv/bin/python test/platform_case.py "$case_dir" "$work/good" "${layout[@]}"
cp -r "$work/good" "$work/bad"
rm -r "${work:?}/bad/$refused_socket"
chmod -R a+rX "$work/model"

# Created and started apart, so that the engine's own warnings do not mix with the program's stderr.
container=$(docker create --platform=linux/amd64 --network none "${gpus[@]}" \
    --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 512 --memory 16g --memory-swap 16g \
    --shm-size 64m --ulimit data=16106127360 --volume "$work/input:/input:ro" --volume "$work/output:/output" \
    --volume "$work/tmp:/tmp" --volume "$work/model:/opt/ml/model:ro" "$image")
docker start "$container" >/dev/null
say "waiting for /health of $image"
started_s=$SECONDS status=000
until [ "$status" = 200 ]; do
    [ "$(docker inspect --format '{{.State.Running}}' "$container")" = true ] || fail "it must not end while it loads"
    [ $((SECONDS - started_s)) -lt "$health_limit_s" ] || fail "/health must answer 200 within $health_limit_s s"
    sleep 1
    read -r status _ <<<"$(ask GET /health 10)"
    [[ $status =~ ^(000|200|503)$ ]] || fail "/health must answer 503 until it answers 200, got $status"
done
say "healthy after $((SECONDS - started_s)) s"
expect 200 HEAD /health 10
expect 405 GET /invoke 10
expect 404 GET /ping 10

first_masks=''
for ((number = 1; number <= invokes; number++)); do
    fill "$work/good"
    expect 201 POST /invoke "$case_limit_s"
    .venv/bin/python test/check_masks.py "$work/input" "$work/output" --truth "$case_dir" --dice-floor "$dice_floor" ||
        fail "the masks of case $number must pass"
    masks=$(cd "$work/output" && find . -type f -exec sha256sum {} + | sort)
    [ "${first_masks:=$masks}" = "$masks" ] || [ "${#gpus[@]}" -gt 0 ] || fail "equal cases must have equal masks"
    [ -z "$(find "$work/tmp" -mindepth 1 -maxdepth 1 -name 'case-*')" ] || fail "a case must leave no temporary files"
    if [ "$number" -eq 1 ]; then
        fill "$work/bad"
        expect 422 POST /invoke "$case_limit_s"
        [[ $detail = *psma-pet* ]] || fail "the answer must name the missing socket"
        [ -z "$(find "$work/output" -type f)" ] || fail "a refused case must leave no masks"
        expect 200 GET /health 10
    fi
done
docker logs "$container" 2>"$work/err" >/dev/null
[ "$(wc -l <"$work/err")" -eq 1 ] || { sed 's/^/    /' "$work/err" && fail "stderr must hold the bad case's line only"; }
grep -q 'psma-pet' "$work/err" || fail "stderr must name the missing socket"

# stop MESSAGE: SIGTERM; it must be over in time, with 143.
stop() {
    local before_s
    before_s=$(date +%s%N)
    docker kill --signal TERM "$container" >/dev/null
    timeout $((end_limit_s * 2)) docker wait "$container" >"$work/code" || fail "$1 must end it"
    say "$1: exit code $(cat "$work/code") after $((($(date +%s%N) - before_s) / 1000000)) ms"
    [ $((($(date +%s%N) - before_s) / 1000000000)) -lt "$end_limit_s" ] || fail "it must end within $end_limit_s s"
    [ "$(cat "$work/code")" -eq 143 ] || fail "exit code must be 143"
}

fill "$work/good"
ask POST /invoke "$case_limit_s" >"$work/answer" &
running=$!
sleep 3
expect 409 POST /invoke 10
stop "SIGTERM while a case runs"
wait "$running" || true
read -r status _ <"$work/answer" || true
[ "$status" = 503 ] || fail "a stopped case must be answered 503, got $status"
[ -z "$(find "$work/output" -type f)" ] || fail "a stopped case must leave no masks"
[ -z "$(find "$work/tmp" -mindepth 1 -maxdepth 1 -name 'case-*')" ] || fail "a stopped case must leave no temporary files"
say "passed"
