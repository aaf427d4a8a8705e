"""What gpuconv is compared with: PyTorch, in each of the forms in which a user might run it."""
