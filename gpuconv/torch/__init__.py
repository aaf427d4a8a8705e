"""gpuconv's operations as PyTorch operators with gradients, for PyTorch's tensors and layout::

    net = gpuconv.torch.replace(net)           # every Conv2d and Linear inside runs our kernels
    y = gpuconv.torch.conv2d(x, w, padding=1)  # or one call

Volumes are NCHW. Our kernels read volumes in channels_last memory as NHWC without a copy, and they return volumes in
this memory format; activations also read contiguous tensors, and return such tensors for them. Tensors in another
memory format, and all tensors on "emulated", are copied; all other tensors share memory with our arrays. CUDA tensors
run on PyTorch's current stream. CPU tensors run on "numpy", or on "emulated" inside
``with gpuconv.torch.cpu_device("emulated")``. `torch.compile` leaves each operator as it is. Inside `torch.autocast`,
convolutions and linear layers compute in its dtype.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("gpuconv.torch needs PyTorch; see pytorch.org for its installation") from error

from gpuconv.torch.activation import ACTIVATIONS
from gpuconv.torch.conv import conv2d
from gpuconv.torch.linear import linear
from gpuconv.torch.modules import Conv2d, Linear, replace
from gpuconv.torch.pool import avg_pool2d, max_pool2d
from gpuconv.torch.tensors import cpu_device

__all__ = ["ACTIVATIONS", "Conv2d", "Linear", "avg_pool2d", "conv2d", "cpu_device", "linear", "max_pool2d", "replace"]
