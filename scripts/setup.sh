#!/usr/bin/env bash
# Create .venv and install engrain into it. Usage: scripts/setup.sh STAMP [EXTRA]...
#
# PYTHON names the interpreter; PIP_ARGS is passed to pip, for example
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu".
set -euo pipefail

stamp=$1
shift
extras=$(IFS=,; echo "$*")
venv=.venv

# Running it is the only proof that an interpreter is there: version managers leave empty shims.
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if ! usable "$venv/bin/python"; then
    found=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if usable "$candidate"; then
            found=$candidate
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "engrain needs Python 3.11 or newer; looked for: ${PYTHON:-python3, python3.11 to python3.14}." >&2
        echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make setup PYTHON=/path/to/python" >&2
        exit 1
    fi
    if ! "$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "$found can't make virtual environments: its module ensurepip is missing." >&2
        echo "Install it (Debian, Ubuntu: apt-get install python3-venv) and run make again." >&2
        exit 1
    fi
    echo "Making $venv with $("$found" --version)"
    "$found" -m venv --clear "$venv"
fi

echo "Installing engrain${extras:+ [$extras]} into $venv; a first time takes a few minutes"
# shellcheck disable=SC2086  # PIP_ARGS is a list of words on purpose
"$venv/bin/python" -m pip install --quiet ${PIP_ARGS:-} --editable ".${extras:+[$extras]}"
touch "$stamp"
