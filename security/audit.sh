#!/usr/bin/env bash
# Asks the Python Packaging Advisory Database, through pip-audit, what is known against the packages of requirements.lock.
#
#   security/audit.sh
#
# Exit code: 0 when every package was judged and all that is known is explained in security/explained.toml; 1 when
# something is not; 3 when packages were NOT judged, because there is no network or the index has no such service.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=environment.sh
. ./environment.sh
# shellcheck source=security/tools.sh
. security/tools.sh

if [ $# -ne 0 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ $1 = -h || $1 = --help ]] && exit 0 || exit 2
fi

tools=$(ensure_tools)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Its own exit code tells findings from a failure no better than an empty report does.
"$tools/bin/pip-audit" --disable-pip --require-hashes --requirement requirements.lock --progress-spinner off \
    --format json --output "$work/report.json" 2>"$work/log" || true
grep -E '^(ERROR|WARNING)|Error' "$work/log" | tail -n 1 || true
"$tools/bin/python" -m security.audit "$work/report.json" --lock requirements.lock
