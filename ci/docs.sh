#!/usr/bin/env bash
# Builds the documentation as a site; a warning is an error.  ci/docs.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pip install --quiet -e '.[docs]'
python -m sphinx -W --keep-going -q -E docs "${1:-build/docs}"
