"""The expected results and error bounds of each op for host arrays in float64, one file for each family.

A rule takes an op's name, its arrays and options, and the case's dtype. It runs within `gpuconv.oracle()`.
"""
