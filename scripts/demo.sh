#!/usr/bin/env bash
# From a clean clone to a real model answering through a verified draft tree:
#   bash scripts/demo.sh
#   bash scripts/demo.sh "question" --temperature 1 --seed 7 --max-new-tokens 200 --plain
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ensure demo
exec "$VENV/bin/python" "$ROOT/scripts/demo.py" "$@"
