"""The kernels' resources on a GPU and their predicted times, from their machine code; nothing is run."""
