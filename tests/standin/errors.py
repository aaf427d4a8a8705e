"""The errors that CuPy raises, with its names."""


class CUDARuntimeError(RuntimeError):
    """The error that CuPy raises for a failed CUDA call; the message begins with the error's name."""


class CUDADriverError(RuntimeError):
    """The error that CuPy raises for a failed call of the CUDA driver."""
