"""The benchmark: what gpuconv takes beside PyTorch, in one process on one device. `python -m bench --help`."""
