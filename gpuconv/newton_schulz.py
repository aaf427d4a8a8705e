"""The constants of `gpuconv.ops.muon_step`."""

# Jordan's a, b, c: a x + b x^3 + c x^5 is steep at 0, and maps the interval [0.68, 1.21] around 1 into itself.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MOST_NEWTON_SCHULZ = 100  # steps; after five the singular values are near 1, and more steps bring them no nearer
# "full" multiplies in the accumulation dtype. "tf32" rounds the factors of products to TF32. "bfloat16" stores the
# factors in bfloat16.
MATMUL_PRECISIONS = ("full", "tf32", "bfloat16")
EPS = 1e-7  # added to the norm by which the matrix is divided, so that zeros stay zeros
