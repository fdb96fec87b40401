#!/usr/bin/env bash
# Install what is missing and run the test suite; arguments go to pytest:
#   bash scripts/test.sh                 style, types and all tests, in as many processes as there are cores, at most 4
#   bash scripts/test.sh -k greedy -x    these tests, in one process
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ensure test
cd "$ROOT"
if [ $# -eq 0 ]; then
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    "$VENV/bin/mypy"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # a process a core: two of two threads each slow each other many times
    set -- --numprocesses auto --maxprocesses 4 --dist worksteal # a process with the real model holds 2 GiB
fi
exec "$VENV/bin/python" -m pytest "$@"
