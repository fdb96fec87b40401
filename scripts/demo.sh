#!/usr/bin/env bash
# From a clean clone to a real model answering through a verified draft tree:
#   bash scripts/demo.sh
#   bash scripts/demo.sh "question" --temperature 1 --seed 7 --max-new-tokens 200 --plain
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ensure demo
"$VENV/bin/eagle-hsd" demo "$@"
cat <<'NEXT'

Try next:
  .venv/bin/eagle-hsd chat                                                  a conversation; /stats shows its numbers
  bash scripts/demo.sh "Why is the sky blue?" --temperature 1 --seed 7      sampled, by the target's own law
  .venv/bin/eagle-hsd --help                                                train, evaluate, compare trees, convert
NEXT
