#!/usr/bin/env bash
# Runs the everyday tests with each package that they need in the lowest version that pyproject.toml declares. The
# packages of the extra `compile` are the newest here; ci/oldest_nvrtc.sh tests the oldest NVRTC.  ci/lowest.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
source "$scratch/venv/bin/activate"
python - >"$scratch/lowest.txt" <<'PYTHON'
import re
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
requirements = [*project["dependencies"], *sum((extras[name] for name in ("plot", "image", "download", "completion", "live", "mpi", "onnx", "tensorboard", "test")), [])]
for requirement in requirements:
    name, lowest = re.fullmatch(r"([\w.\-]+(?:\[[\w,]+\])?)(?:[>=]=([\w.]+))?", requirement).groups()
    if lowest:
        print(f"{name.partition('[')[0]}=={lowest}")
PYTHON
python -m pip install --quiet -e '.[test]' -c "$scratch/lowest.txt"
python -m pip list --format=freeze | grep -i -E "^(numpy|scipy|ml.dtypes|matplotlib|pillow|safetensors|nvtx)="
python -m pytest -n auto
