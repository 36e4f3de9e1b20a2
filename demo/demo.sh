#!/usr/bin/env bash
# Loses a real MLflow deployment and gets it back: starts an MLflow server, logs two days of work into it, backs up
# after each day, deletes everything, restores it, and lets MLflow load every model again. Exits 0 only if every byte
# and every prediction is what it was. `make demo` builds what this needs and runs it.
#
#   MLVAULT             the binary to show (default: that of the release build)
#   MLVAULT_TEST_TOOLS  the virtual environment with MLflow (default: where scripts/setup.sh puts it)
#   DEMO_KEEP=1         keep the work folder, to look around in it
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${MLVAULT_TEST_TOOLS:-$HOME/.cache/mlvault-tools}
mlvault=${MLVAULT:-${CARGO_TARGET_DIR:-$HOME/.cache/mlvault-target}/release/mlvault}
start_seconds_max=60
stop_seconds_max=20

[ -x "$mlvault" ] || { echo "demo: no binary at '$mlvault': run 'make demo'" >&2; exit 1; }
[ -x "$tools/bin/mlflow" ] || { echo "demo: no MLflow in '$tools': run 'scripts/setup.sh demo'" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/mlvault-demo.XXXXXX")
server=
failure=
step_number=0
mkdir "$work/bin" "$work/deployment" "$work/home"
ln -s "$(realpath "$mlvault")" "$work/bin/mlvault"
cd "$work"

export PATH=$work/bin:$tools/bin:$PATH
export HOME=$work/home # caches of mlvault and of MLflow go away with the work folder
export MLVAULT_REPO=$work/repository MLVAULT_PASSPHRASE='only for this demo'
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false PYTHONWARNINGS=ignore
unset MLVAULT_PASSPHRASE_FILE MLVAULT_KEY_FILE PYTHONDONTWRITEBYTECODE

# ---- helpers -------------------------------------------------------------------------------------------------------

step() {
    step_number=$((step_number + 1))
    printf '\n%d. %s\n' "$step_number" "$*"
}

note() { printf '   %s\n' "$*"; }

# Runs a command, showing it first as one would type it; its output is indented.
show() {
    local word line=
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./:=@%+~-]*) line+=" '$word'" ;; *) line+=" $word" ;; esac
    done
    printf '   $%s\n' "$line"
    "$@" 2>&1 | sed 's/^/     /'
}

fail() {
    failure=$*
    exit 1
}

stop_server() {
    [ -n "$server" ] || return 0
    kill -TERM -- "-$server" 2>/dev/null || true
    local waited
    for ((waited = 0; waited < stop_seconds_max * 10; waited++)); do
        kill -0 -- "-$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

clean_up() {
    local status=$?
    trap - EXIT INT TERM HUP
    stop_server
    cd /
    if [ "${DEMO_KEEP:-}" = 1 ]; then
        printf '\nkept: %s\n' "$work"
    else
        chmod -R u+rwX "$work"
        rm -rf "$work"
    fi
    [ $status = 0 ] || printf '\ndemo FAILED in step %d: %s\n' "$step_number" "${failure:-exit code $status}" >&2
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

free_port() {
    python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

answers() {
    python - "$1" <<'PYTHON' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/health", timeout=2).read()
PYTHON
}

# Starts MLflow on the files in `deployment`, in a process group of its own, and waits until it answers.
start_server() {
    local port waited
    port=$(free_port)
    export MLFLOW_TRACKING_URI=http://127.0.0.1:$port
    note "\$ mlflow server --backend-store-uri sqlite:///deployment/mlflow.db" \
        "--artifacts-destination deployment/artifacts"
    setsid mlflow server --host 127.0.0.1 --port "$port" --workers 1 \
        --backend-store-uri "sqlite:///$work/deployment/mlflow.db" \
        --artifacts-destination "$work/deployment/artifacts" >>"$work/server.log" 2>&1 &
    server=$!
    for ((waited = 0; waited < start_seconds_max * 2; waited++)); do
        answers "$MLFLOW_TRACKING_URI" && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 30 "$work/server.log" >&2
    fail "MLflow does not answer"
}

# Runs one command of the deployment's generator; its chatter goes to a file, which is shown if it fails.
deployment() {
    python "$here/../tests/make_deployment.py" "$@" 2>"$work/deployment.log" | sed 's/^/     /' || {
        tail -n 30 "$work/deployment.log" >&2
        fail "make_deployment.py $*"
    }
}

# Mode, modification time and size of every entry below a folder, and the content of every file.
manifest() {
    (
        cd "$1"
        find . -mindepth 1 -printf '%p %y %m %T@ %l\n' | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    )
}

# Keeps a copy to compare with, made by other means than mlvault.
keep_reference() {
    cp -a deployment "reference-$1"
    manifest deployment >"manifest-$1.txt"
    note "$(find deployment -type f | wc -l) files, $(megabytes deployment) MB; a reference copy is set aside"
}

# Fails unless the folder is, byte for byte, the deployment of the given day.
compare() {
    local folder=$1 day=$2
    show diff -r "reference-$day" "$folder" || fail "'$folder' differs from the deployment of $day"
    manifest "$folder" >restored.txt
    diff "manifest-$day.txt" restored.txt >&2 || fail "modes, times or SHA-256 sums of '$folder' differ"
    note "no difference: $(find "$folder" -type f | wc -l) files agree in content, SHA-256, mode and modification time"
}

megabytes() { du -sb "$@" | awk '{ printf "%.1f", $1 / 1e6 }'; }

# ---- the demo ------------------------------------------------------------------------------------------------------

printf 'mlvault demo: lose a real MLflow deployment, and get it back\n'

step "A team starts an MLflow server (SQLite and a folder of artifacts) and works for a day"
start_server
deployment log --day 1

step "Stop MLflow: a SQLite file that is being written to must not be copied"
stop_server
keep_reference day1

step "Create an encrypted repository, and make the first backup"
show mlvault init
# From inside the folder, so that the snapshot's paths do not depend on where the deployment stands.
cd deployment
show mlvault backup . --tag day1
cd "$work"
first_size=$(megabytes repository)
note "the repository takes $first_size MB"

step "The next day: more runs, a new version of every model, one run deleted; then the second backup"
start_server
deployment log --day 2
deployment record "$work/day2.json"
stop_server
keep_reference day2
cd deployment
show mlvault backup . --tag day2
cd "$work"
note "the deployment grew from $(megabytes reference-day1) to $(megabytes deployment) MB," \
    "the repository from $first_size to $(megabytes repository) MB"

step "What the repository holds"
show mlvault snapshots
show mlvault stats

step "Disaster: the whole deployment is gone"
show rm -rf deployment

step "Check that everything stored is whole, then restore the latest snapshot"
show mlvault check --read-data
show mlvault restore --snapshot latest --target deployment

step "Compare every byte with the reference copy"
compare deployment day2
show mlvault diff latest --dir deployment --metadata

step "Start MLflow on the restored files, load every model version, predict again"
start_server
deployment verify "$work/day2.json"
stop_server

step "The deployment as it was a day earlier is still there"
show mlvault restore --snapshot latest~1 --target yesterday
compare yesterday day1

printf '\ndemo passed: every byte came back, and every model predicts what it predicted before (%d s)\n' $SECONDS
