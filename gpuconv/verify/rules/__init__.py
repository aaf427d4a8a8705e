"""Rules: the expected results and error bounds of each op, one file for each family.

A rule takes an op's name, its arrays (on the host, those of floats in float64), its options and the dtype of the case.
It runs within `gpuconv.oracle()`.
"""
