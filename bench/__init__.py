"""The benchmark: the times of gpuconv and PyTorch, in one process on one device. `python -m bench --help`."""
