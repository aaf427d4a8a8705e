#!/usr/bin/env bash
# The kernels compiled for each architecture, on a machine without a GPU: fails on a spill or on local memory.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m gpuconv kernels --report --workers 1
