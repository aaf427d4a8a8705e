"""Compiles, loads, checks and launches kernels, captures launches, and creates the kernels' arrays."""
