#!/usr/bin/env bash
# Checks style, format and types.  ci/lint.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python -m ruff check .
python -m ruff format --check .
python -m mypy
