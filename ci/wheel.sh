#!/usr/bin/env bash
# The wheel by itself: built, installed into an empty environment and run from a folder that is not the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# `build/` of an earlier build would slip into the wheel, so it is built from a copy of what belongs to it.
mkdir "$scratch/source"
cp -r gpuconv kernels pyproject.toml README.md LICENSE "$scratch/source"
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$scratch" "$scratch/source"
"$scratch/venv/bin/python" -m pip install --quiet "$(echo "$scratch"/gpuconv-*.whl)[plot]"
cd "$scratch"
venv/bin/gpuconv info
venv/bin/gpuconv train --epochs 1 --run-dir run
venv/bin/gpuconv evaluate run
ls run/last.safetensors run/metrics.jsonl run/curves.png run/activations.png run/filters.png
