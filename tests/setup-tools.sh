#!/bin/sh
# Installs the S3 servers that the tests start: moto_server and rclone, pinned in tests/requirements.txt.
#
# They go into a Python environment of their own, ${MLVAULT_TEST_TOOLS:-$HOME/.cache/mlvault-tools}. Running this again
# does nothing unless the pins have changed. Needs python3 with its venv module.
set -eu

requirements=$(dirname "$0")/requirements.txt
tools=${MLVAULT_TEST_TOOLS:-$HOME/.cache/mlvault-tools}
installed=$tools/installed-requirements.txt

if [ -x "$tools/bin/moto_server" ] && [ -x "$tools/bin/rclone" ] && cmp -s "$requirements" "$installed"; then
    exit 0
fi
mkdir -p "$tools"
[ -x "$tools/bin/pip" ] || python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
"$tools/bin/moto_server" --help >/dev/null
"$tools/bin/rclone" version >/dev/null
cp "$requirements" "$installed"
