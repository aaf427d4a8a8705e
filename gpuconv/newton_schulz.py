"""The constants of `gpuconv.ops.muon_step`."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c, Jordan's: steep at 0, near 1 at 1
MOST_NEWTON_SCHULZ = 100  # steps; five bring the singular values near 1, and further ones do not bring them nearer
EPS = 1e-7  # added to the norm that the matrix is divided by, so that zeros stay zeros
