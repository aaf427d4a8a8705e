"""Kernels from source to launch: compiling, caching, loading, checking, capturing; and their arrays."""
