"""Determines kernels' resources on a GPU and predicts their times, from their machine code, without running them."""
