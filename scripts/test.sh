#!/usr/bin/env bash
# Install what is missing and run the test suite; arguments go to pytest:
#   bash scripts/test.sh
#   bash scripts/test.sh -k greedy -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ensure test
cd "$ROOT"
if [ $# -eq 0 ]; then
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    "$VENV/bin/mypy"
fi
exec "$VENV/bin/python" -m pytest "$@"
