# shellcheck shell=bash
# Sourced by the scripts of this repository, which stand in its root: the project's name and version, and a virtual
# environment .venv kept at the pinned requirements.

project_name() { sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml; }

project_version() { sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml; }

# Whether the command is a Python that the product runs on.
is_right_python() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

# Prints a Python 3.11 outside the virtual environment.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3; do
        if is_right_python "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    echo "set-up: Python must be 3.11, got none as python3.11 or python3; install it or name it: PYTHON=/path/to/python" >&2
    return 1
}

# ensure_environment REQUIREMENTS_FILE: installs what its lock says, unless that is installed already.
ensure_environment() {
    local requirements=$1 marker=.venv/installed-$1.sha256 python lock
    if [ -f "$marker" ] && sha256sum --check --status "$marker"; then
        return
    fi
    if ! is_right_python .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || return
        echo "Making the virtual environment .venv with $python"
        if ! "$python" -m venv --clear .venv; then
            echo "set-up: '$python -m venv' must work, got an error; on Debian install python3-venv" >&2
            return 1
        fi
    fi
    echo "Installing $requirements into .venv (about 4 GB of downloads the first time)"
    for lock in requirements-build.lock "${requirements%.txt}.lock"; do # what packages are built with comes first
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation \
            --requirement "$lock" || return
    done
    sha256sum constraints.txt requirements*.txt requirements*.lock >"$marker"
}
