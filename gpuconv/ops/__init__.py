"""The operations. Each runs on the device of its arrays: NumPy arrays run the CPU backend, CuPy arrays the
CUDA kernels, emulated arrays the same kernels on the CPU.

- Activation volumes are (N, H, W, C), filters (K, R, S, C // groups), linear weights (out_features, in_features).
- Arrays are float64, float32, float16 or bfloat16, and all of one dtype in a call unless the op says otherwise. float64
  accumulates in float64, the others in float32, and each result is rounded once.
- ``out`` receives the result as in NumPy's ufuncs, and is returned. It may share memory with an input: the result is
  the same as if it did not. It may be a slice of the channels of a wider volume, ``y[..., 3:7]``: most ops write there
  directly, the others copy their result there. Outputs that share memory with each other, or are read-only, raise
  ValueError; in the lists of an optimizer step only an array that occurs twice is found, not two views of one memory.
  Ops that compute parameter gradients, and conv2d_dgrad, take ``accumulate``: True adds to the given arrays instead of
  overwriting them.
- Subclasses of NumPy's array are treated as plain arrays. Masked arrays, arrays whose bytes are not in
  the machine's order, and arrays of anything but numbers raise TypeError.
- ``stride``, ``dilation`` and ``kernel_size`` are an integer or (height, width). ``padding`` is an integer,
  (height, width), ((top, bottom), (left, right)), "same" (only at stride 1) or "valid". The taps of a filter with
  ``dilation`` 1 are adjacent.
- ``fit`` says what happens if the last whole window ends before the edge of the padded input: "floor" drops the rest,
  "exact" raises and names the sizes that would fit, "cover" adds a last partial window unless it would begin beyond the
  input.
- ``algo`` names an algorithm of `gpuconv.algorithms`. It changes at most the order of a sum; "auto" lets the device
  choose. For NumPy arrays all names give the same bits.
- ``tf32=True`` multiplies float32 arrays in TF32: both factors of each product are rounded to a 10-bit mantissa,
  to nearest, ties away from zero, as ``cvt.rna.tf32.f32`` does. Tensor cores round subnormal factors toward zero. Sums
  are float32, and a bias is not rounded.
- ``lr``, ``step``, ``start``, ``grad_scale``, ``factor`` and ``divisor`` may be a number or a one-element array on the
  device. So may ``offset``, except in the ops that fill an array with random numbers.
- Bad sizes and values raise ValueError, bad types, dtypes and mixed devices TypeError, before anything is computed.
  Some wrong shapes raise TypeError instead of ValueError: a wrong rank of `load_batch`'s images, labels or indices or
  of `random_permutation`'s order, and a wrong shape of a table, counters, totals or scaling.
"""

from gpuconv.ops.activation import *  # noqa: F403
from gpuconv.ops.arithmetic import *  # noqa: F403
from gpuconv.ops.batch import *  # noqa: F403
from gpuconv.ops.conv import *  # noqa: F403
from gpuconv.ops.digest import *  # noqa: F403
from gpuconv.ops.dropout import *  # noqa: F403
from gpuconv.ops.linear import *  # noqa: F403
from gpuconv.ops.loss import *  # noqa: F403
from gpuconv.ops.muon import *  # noqa: F403
from gpuconv.ops.norm import *  # noqa: F403
from gpuconv.ops.optim import *  # noqa: F403
from gpuconv.ops.pool import *  # noqa: F403
from gpuconv.ops.random import *  # noqa: F403
from gpuconv.ops.registry import OPS
from gpuconv.ops.step_counter import *  # noqa: F403

__all__ = list(OPS)
