#!/usr/bin/env bash
# Style and types.  ci/lint.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python -m ruff check .
python -m mypy
