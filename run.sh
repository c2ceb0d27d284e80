#!/usr/bin/env bash
# Finds disease in a PSMA + FDG PET/CT case; sets up the virtual environment .venv the first time.
#
#   ./run.sh                                  makes a demonstration case, runs it and shows what was found
#   ./run.sh CASE_DIR OUTPUT_DIR [OPTION...]  runs your own case; for the options: .venv/bin/python inference.py --help
set -euo pipefail

truth=()
case $#-${1-} in
    0-)
        case=demo/case output=demo/output truth=(--truth demo/patients/train_9000)
        ;;
    1-* | [0-9]--* | [0-9][0-9]--*)
        sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        [[ $1 = -h || $1 = --help ]] && exit 0 || exit 2
        ;;
    *)
        # Paths are relative to where the user stands, not to this file.
        case=$(realpath -m -- "$1")
        output=$(realpath -m -- "$2")
        shift 2
        ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=environment.sh
. ./environment.sh
ensure_environment requirements.txt
if [ "$case" = demo/case ]; then
    # A phantom that no network was trained on. Its truth and its organ maps stay behind.
    .venv/bin/python -m training phantom --size demo --seeds 9000 --output demo/patients
    rm -rf demo/case
    for tracer in PSMA FDG; do
        mkdir -p "demo/case/$tracer"
        cp "demo/patients/train_9000/$tracer"/{CT.nii.gz,PET.nii.gz,threshold.json} "demo/case/$tracer"
    done
fi
# They belong to the masks that an earlier run left, which inference.py takes away itself.
rm -f -- "$output/lesions.csv" "$output/picture.png"
.venv/bin/python inference.py --input "$case" --output "$output" "$@"
.venv/bin/python -m evaluation.report --case "$case" --output "$output" "${truth[@]}"
