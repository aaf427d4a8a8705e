"""`gpuconv` with a separate allocation for each array, for compute-sanitizer: python -m ci.gate.unpooled verify ..."""

import sys

import cupy

from gpuconv.cli import main

cupy.cuda.set_allocator(None)
sys.exit(main(sys.argv[1:]))
