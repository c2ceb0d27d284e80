#!/usr/bin/env bash
# Runs every sh block of docs/training.md, in order and as it stands there, on coarse phantoms in the training set's layout
# and with networks that nnU-Net's own trainers train for one iteration; then checks that what must be there is there.
#
#   test/run_walk.sh [FOLDER]   works in FOLDER and keeps it; in a temporary folder that is removed unless given
set -euo pipefail
if [ $# -gt 0 ]; then
    folder=$(realpath -m -- "$1")
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh
ensure_environment requirements.txt

say() { printf '\nrun_walk: %s\n' "$*"; }

fail() {
    say "FAILED: $*"
    exit 1
}

export PYTHON=.venv/bin/python
export PATIENTS=$folder/patients HELD_OUT=$folder/held_out NNUNET=$folder/nnunet RESULTS=$folder/results
export MATRIX=test/walk/matrix.toml RECIPE=test/walk/final.toml FOLDS=2 DEVICE=cpu
export DIST=$folder/dist # not over what the user has exported
export ORGANS=resources/demo/totalsegmentator ORGAN_TASK=fastest

# Limits at which untrained networks call nearly all uptake disease, so that there are lesions of both kinds to fit.
export BASE=$folder/base.toml
mkdir -p "$folder"
sed -E 's/^ttb_probability .*/ttb_probability = 0.01/; s/^normal_probability .*/normal_probability = 1.0/' \
    resources/paper.toml >"$BASE"

say "phantoms in $folder"
$PYTHON -m training phantom --size tiny --seeds 0-5 --output "$PATIENTS"
$PYTHON -m training phantom --size tiny --seeds 100 --output "$HELD_OUT"
# One patient of each tracer has a corrected annotation.
for scan in train_0000/PSMA train_0001/FDG; do
    cp "$PATIENTS/$scan/TTB.nii.gz" "$PATIENTS/$scan/TTB_fixed.nii.gz"
done

blocks=$(sed -n '/^```sh$/,/^```$/{/^```/!p}' docs/training.md)
for command in check dataset folds train pack predict-oof sweep fit-refinement; do
    grep -q "^\$PYTHON -m training $command " <<<"$blocks" || fail "docs/training.md must have $command in a sh block"
done
say "the commands of docs/training.md"
bash -euxo pipefail -c "$blocks"

say "what must be there"
for file in check.csv sweep/sweep_psma.png sweep/sweep_fdg.csv refinement.png lesions.csv oof.csv held_out.csv \
    weights/mine.toml weights/fitted.toml; do
    [ -s "$RESULTS/$file" ] || fail "$file is missing"
done
# Every patient's two scans and a heading, and two runs of the held-out one's.
[ "$(wc -l <"$RESULTS/oof.csv")" -eq 13 ] || fail "oof.csv must have 12 scans"
[ "$(wc -l <"$RESULTS/held_out.csv")" -eq 5 ] || fail "held_out.csv must have 2 scans of 2 runs"
[ -n "$(ls "$RESULTS/plots"/*.png)" ] || fail "there must be plots"
ls "$DIST"/*-model.tar.gz >/dev/null || fail "there must be a model tarball"
say "passed"
