#!/usr/bin/env bash
# The GPU gate: everything that only a GPU can tell, in parts.  ci/gpu.sh [PART ...] --out OUT; see --help
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m ci.gate "$@"
