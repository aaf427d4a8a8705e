#!/usr/bin/env bash
# Checks what is published: builds the source distribution, and the wheel from it, installs the wheel into an empty
# environment, and runs it from a folder that is not the repository.  ci/wheel.sh [--tests]
# --tests: also runs the everyday tests in the unpacked source distribution.
set -euo pipefail
cd "$(dirname "$0")/.."
case "$*" in
    "" | --tests) ;;
    *) echo "usage: ci/wheel.sh [--tests], received $*" >&2; exit 2 ;;
esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv" "$scratch/tools"
"$scratch/tools/bin/python" -m pip install --quiet build twine
# Built from a copy of the files that git does not ignore: otherwise the wheel would include files from an earlier `build/`.
mkdir "$scratch/source"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch/source"
"$scratch/tools/bin/python" -m build --outdir "$scratch/dist" "$scratch/source" >"$scratch/build.log" || { cat "$scratch/build.log"; exit 1; }
"$scratch/tools/bin/python" -m twine check --strict "$scratch"/dist/*
"$scratch/venv/bin/python" -m pip install --quiet "$(echo "$scratch"/dist/gpuconv-*.whl)[plot]"
cd "$scratch"
venv/bin/gpuconv info
venv/bin/gpuconv train --epochs 1 --run-dir run
venv/bin/gpuconv evaluate run
ls run/last.safetensors run/metrics.jsonl run/curves.png run/activations.png run/filters.png
if [ "${1:-}" = --tests ]; then
    tar xf dist/gpuconv-*.tar.gz
    cd gpuconv-*/
    ../venv/bin/python -m pip install --quiet -e '.[test]'
    ../venv/bin/python -m pytest -n auto
fi
