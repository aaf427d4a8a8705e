"""The arrays of the refused calls."""

import numpy as np

F32 = np.float32


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


X, W = zeros(2, 5, 7, 4), zeros(6, 3, 2, 4)
Y = zeros(2, 3, 6, 6)
ROWS, WEIGHT = zeros(5, 3), zeros(4, 3)
LOGITS, LABELS = zeros(3, 4), np.zeros(3, np.int64)
VECTOR = zeros(4)
MASK = zeros(2, 5, 7, 2, dtype=np.uint8)  # of a 2 x 2 pool with X's shape as output: 4 channels x 4 bits = 2 bytes
PARAMS = [zeros(2, 3), zeros(5)]
POOL = dict(kernel_size=2)
POOL_BACKWARD = dict(kernel_size=2, input_shape=X.shape)
ARGMAX = np.zeros((2, 2, 3, 4), np.uint8)
IMAGES, INDICES = np.zeros((3, 5, 7, 4), np.uint8), np.zeros(2, np.int64)


def layout(*names):
    """The end of the error for arrays in PyTorch's layout. names: the arrays' names."""
    moved = " and ".join(f"{name}.transpose(0, 2, 3, 1)" for name in names)
    return f"; that is PyTorch's layout, channels before rows and columns: {moved} moves C last"
