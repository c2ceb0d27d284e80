#!/usr/bin/env bash
# Sets up the virtual environment .venv, checks style and types, runs the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=environment.sh
. ./environment.sh
ensure_environment requirements-dev.txt

echo "ruff"
.venv/bin/ruff check .
echo "mypy"
.venv/bin/mypy
echo "pytest"
# The test volumes are small: more threads than one only wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A module's tests share what they have trained, so they stay in one process.
exec .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
