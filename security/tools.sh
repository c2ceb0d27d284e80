# shellcheck shell=bash
# Sourced by security/sbom.sh and security/audit.sh, after environment.sh and in the repository's root.

# Prints the folder of an environment with what requirements-security.lock says; it is made when it is not there.
ensure_tools() {
    local folder=dist/.security-tools python lock
    if ! { [ -f "$folder/installed.sha256" ] && sha256sum --check --status "$folder/installed.sha256"; }; then
        python=$(find_python) || return
        echo "Installing requirements-security.lock into $folder" >&2
        mkdir -p dist
        "$python" -m venv --clear "$folder" >&2 || return
        for lock in requirements-build.lock requirements-security.lock; do
            "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
                --no-build-isolation --requirement "$lock" >&2 || return
        done
        sha256sum requirements-security.lock >"$folder/installed.sha256"
    fi
    printf '%s\n' "$folder"
}
