"""The digest of a tensor. The op's docstring defines the bits of the hash; the sums are computed in float64."""

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide


def digest(x, before, *, out):
    data = x.tobytes()
    words = np.frombuffer(data + bytes(-len(data) % 8), "<u8")
    z = words + np.arange(1, len(words) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> 27)) * np.uint64(0x94D049BB133111EB)
    upper, lower = divmod(int(np.sum(z ^ (z >> 31), dtype=np.uint64)), 2**32)
    change = 0.0 if before is None else wide(x) - wide(before)
    found = [upper, lower, wide(x).sum(), (wide(x) ** 2).sum(), np.sum(change**2)]
    return round_to(found, np.dtype(np.float64), out)
