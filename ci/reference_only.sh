#!/usr/bin/env bash
# Checks that the oracle needs no framework but NumPy: runs its tests, and those of the fast NumPy code against it, with
# only NumPy and the test tools installed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet numpy 'pytest>=9' 'hypothesis>=6.100'
"$venv/bin/python" - <<'PYTHON'
import importlib.util

others = ("scipy", "torch", "cupy", "ml_dtypes", "threadpoolctl", "matplotlib")
present = [name for name in others if importlib.util.find_spec(name)]
assert not present, f"not NumPy alone: {present}"
PYTHON
"$venv/bin/python" -m pytest tests/backends tests/test_random.py tests/test_inverse_normal.py --ignore=tests/backends/cuda
