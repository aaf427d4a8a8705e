#!/usr/bin/env bash
# Compiles the kernels for each architecture, without a GPU; fails if a kernel spills or uses local memory.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m gpuconv kernels --report --workers 1
