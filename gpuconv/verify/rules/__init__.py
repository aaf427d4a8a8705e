"""What each op must give for host arrays in float64, and how far a device's may lie from it, family by family.

A rule takes an op's name, its arrays and options, and the dtype the case is about. It runs within `gpuconv.oracle()`.
"""
