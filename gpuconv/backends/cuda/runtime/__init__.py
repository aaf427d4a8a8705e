"""Kernels from source to launch: compiled, cached, loaded, checked, captured; and their arrays."""
