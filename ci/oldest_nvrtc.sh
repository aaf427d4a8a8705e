#!/usr/bin/env bash
# Checks the machine code of the wgmma kernels, as compiled by the oldest NVRTC of CUDA 12 and of CUDA 13 that the
# extras allow.  ci/oldest_nvrtc.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for major in 12 13; do
    venv="$scratch/$major"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -e . pytest hypothesis scipy "cuda-core[cu$major]>=1.0" \
        "cuda-toolkit[nvrtc,cudart]==$major.0.0" 'nvidia-cuda-nvdisasm>=13'
    disassembler=$(find "$venv" -name nvdisasm -print -quit)
    PATH="$(dirname "$disassembler"):$PATH" GPUCONV_CACHE_DIR="$scratch/cache" "$venv/bin/python" - <<PYTHON
import sys

import pytest

from gpuconv.backends.cuda.runtime import nvrtc

version = nvrtc.toolkit()[1]
print("by", version, flush=True)
assert version == "NVRTC $major.0"
sys.exit(pytest.main(["-m", "kernels", "-k", "hgmma", "tests/kernels/test_wgmma_convolutions.py", "-rs"]))
PYTHON
done
