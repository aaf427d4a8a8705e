"""The peer that gpuconv is compared with: PyTorch, in each form in which a user might run it."""
