#!/usr/bin/env bash
# Every kernel compiled for every architecture, on a machine without a GPU: fails on a spill or on local memory.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m gpuconv kernels --report --workers 1
