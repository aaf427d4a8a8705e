#!/usr/bin/env bash
# Compiles the kernels of the library and of the GPU gate for sm_90a by the oldest NVRTC of CUDA 12 and of CUDA 13 that
# the extras allow, and checks the machine code of the wgmma kernels.  ci/oldest_nvrtc.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GPUCONV_CACHE_DIR="$scratch/cache"
for major in 12 13; do
    venv="$scratch/$major"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -e . pytest pytest-xdist hypothesis scipy "cuda-core[cu$major]>=1.0" \
        "cuda-toolkit[nvrtc,cudart]==$major.0.0" 'nvidia-cuda-nvdisasm>=13'
    disassembler=$(find "$venv" -name nvdisasm -print -quit)
    export PATH="$(dirname "$disassembler"):$PATH"
    "$venv/bin/python" - <<PYTHON
from gpuconv.backends.cuda.analysis import machine_code
from gpuconv.backends.cuda.runtime import nvrtc

assert nvrtc.toolkit()[1] == "NVRTC $major.0", nvrtc.toolkit()[1]
machine_code.disassembler()  # raises if there is none; without it the tests of machine code would be skipped
PYTHON
    "$venv/bin/python" -m pytest -n auto ci/compile_kernels.py
    "$venv/bin/python" -m pytest -n auto -m kernels tests/kernels/test_wgmma_machine_code.py
done
