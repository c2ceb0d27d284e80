#!/usr/bin/env bash
# Makes requirements*.lock out of requirements*.txt and constraints.txt: one version and one SHA-256 of every package.
#
#   security/lock.sh            resolve anew with pip and write the locks
#   security/lock.sh --check    only say whether they fit, without a network
#
# It is pip itself that resolves (`pip install --dry-run --report`), because what it chooses is what it installs later:
# one file per package, not all files that a project ever released for a version, as pip-tools and uv write down. pip is
# asked without the machine's settings but for the index: a wheel that was built here, or a folder of wheels, has other
# digests than the files that everybody gets. The locks name no index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh

case $#-${1-} in
    0-) ;;
    1---check) exec "$(find_python)" -m security.lock . ;;
    *)
        sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        [[ $1 = -h || $1 = --help ]] && exit 0 || exit 2
        ;;
esac

python=$(find_python)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
for requirements in requirements.txt requirements-dev.txt requirements-security.txt; do
    echo "Resolving $requirements"
    "$work/venv/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --dry-run --ignore-installed \
        --prefer-binary ${index:+--index-url "$index"} --report "$work/${requirements%.txt}.json" \
        --requirement "$requirements"
done
"$python" -m security.lock . --reports "$work"
grep --count '==' requirements*.lock
