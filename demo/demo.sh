#!/usr/bin/env bash
# Loses a real MLflow deployment and gets it back. It starts an MLflow server, logs two days of work, backs up after each
# day while the server runs, wrecks the deployment, restores one model, then everything, and lets MLflow load every model
# again. It exits with 0 only if every artifact has its old content and every model predicts what it predicted before.
# `make demo` builds what this needs and runs it.
#
#   MLVAULT             the program to show (default: the release build)
#   MLVAULT_TEST_TOOLS  the virtual environment with MLflow (default: where scripts/setup.sh puts it)
#   DEMO_KEEP=1         keep the work folder, so that you can look around in it
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${MLVAULT_TEST_TOOLS:-$HOME/.cache/mlvault-tools}
mlvault=${MLVAULT:-${CARGO_TARGET_DIR:-$HOME/.cache/mlvault-target}/release/mlvault}
start_seconds_max=60
stop_seconds_max=20

[ -x "$mlvault" ] || { echo "demo: there is no program at '$mlvault'; run 'make demo'" >&2; exit 1; }
[ -x "$tools/bin/mlflow" ] || { echo "demo: there is no MLflow in '$tools'; run 'scripts/setup.sh demo'" >&2; exit 1; }

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

# Shows a command as you would type it, then runs it and indents its output.
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
        printf '\nKept the work folder: %s\n' "$work"
    else
        chmod -R u+rwX "$work"
        rm -rf "$work"
    fi
    [ $status = 0 ] || printf '\nThe demo FAILED in step %d: %s\n' "$step_number" "${failure:-exit code $status}" >&2
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
    fail "MLflow does not answer; its log is above"
}

# Runs one command of the deployment's generator. What it says besides goes to a file, which is shown if it fails.
deployment() {
    python "$here/../tests/make_deployment.py" "$@" 2>"$work/deployment.log" | sed 's/^/     /' || {
        tail -n 30 "$work/deployment.log" >&2
        fail "make_deployment.py $*"
    }
}

# SHA-256 of every file below a folder.
manifest() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum); }

# Fails unless the artifacts in a folder are, byte for byte, those of the given day.
compare_artifacts() {
    manifest "$1" | diff "$work/artifacts-$2.txt" - >&2 || fail "the artifacts in '$1' are not those of $2"
    note "$(find "$1" -type f | wc -l) artifacts, each with the same SHA-256 as before"
}

megabytes() { du -sb "$@" | awk '{ printf "%.1f", $1 / 1e6 }'; }

# ---- the demo ------------------------------------------------------------------------------------------------------

printf 'This demo loses a real MLflow deployment and gets it back\n'

# The same settings that MLflow itself is given.
export MLVAULT_BACKEND_STORE_URI=sqlite:///$work/deployment/mlflow.db
export MLVAULT_ARTIFACTS=mlflow-artifacts:/=$work/deployment/artifacts
export MLVAULT_DEPLOYMENT=demo

step "A team starts MLflow, with SQLite and a folder of artifacts, and works for a day"
start_server
deployment log --day 1
deployment record "$work/day1.json"
manifest deployment/artifacts >artifacts-day1.txt

step "Create an encrypted repository and back up, while MLflow runs"
show mlvault init
show mlvault backup --tag day1
first_size=$(megabytes repository)
note "The deployment takes $(megabytes deployment) MB, the repository $first_size MB"

step "The next day brings more runs and a new version of every model; back up again"
deployment log --day 2
deployment record "$work/day2.json"
manifest deployment/artifacts >artifacts-day2.txt
show mlvault backup --tag day2
note "The deployment now takes $(megabytes deployment) MB; the repository grew from $first_size to $(megabytes repository) MB"

step "Look at models and changes in the repository, without MLflow and its database"
show mlvault snapshots
show mlvault models
show mlvault models fraud-detector
{ mlvault diff latest~1 latest || true; } | sed -n '/^MLflow:/,$p' | grep -E 'MLflow:|alias|version' | head -n 12 | sed 's/^/     /'

step "Somebody deletes a registered model by accident; restore it while MLflow runs"
python - <<'PYTHON'
import mlflow
mlflow.MlflowClient().delete_registered_model("fraud-detector")
PYTHON
show mlvault restore --model fraud-detector --yes
deployment verify "$work/day2.json"

step "Disaster: the database and all artifacts are gone"
stop_server
show rm -rf deployment

step "Check that the repository is intact, then restore the latest snapshot"
show mlvault check --read-data
mkdir deployment
show mlvault restore --snapshot latest --yes
compare_artifacts deployment/artifacts day2

step "Start MLflow on what was restored, load every model version and predict again"
start_server
deployment verify "$work/day2.json"
stop_server

step "Get the files of the first day's champion, without MLflow's server and database"
show mlvault restore --model fraud-detector --version champion --snapshot latest~1 --target champion-of-day1
python - <<'PYTHON'
import mlflow
print("    ", mlflow.pyfunc.load_model("champion-of-day1"))
PYTHON

step "Restore the whole deployment as it was a day earlier"
mv deployment deployment-day2
mkdir deployment
show mlvault restore --snapshot latest~1 --yes
compare_artifacts deployment/artifacts day1
start_server
deployment verify "$work/day1.json"
stop_server

printf '\nThe demo passed: every artifact came back, and every model predicts what it predicted before (%d s)\n' $SECONDS
