"""The constants of `gpuconv.ops.muon_step`."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's a, b, c: a x + b x^3 + c x^5 is steep at 0 and near 1 at 1
MOST_NEWTON_SCHULZ = 100  # steps; after five the singular values are near 1, and more steps bring them no nearer
# What the products' factors are rounded to: the accumulation dtype, TF32 as they are multiplied, or bfloat16 in memory.
PRECISIONS = ("full", "tf32", "bfloat16")
EPS = 1e-7  # added to the norm by which the matrix is divided, so that zeros stay zeros
