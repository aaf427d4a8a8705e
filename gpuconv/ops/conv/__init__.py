"""Convolution and its gradients."""

from gpuconv.ops.conv.bias_grad import bias_grad
from gpuconv.ops.conv.conv2d import conv2d
from gpuconv.ops.conv.conv2d_backward import conv2d_backward
from gpuconv.ops.conv.conv2d_dgrad import conv2d_dgrad
from gpuconv.ops.conv.conv2d_relu import conv2d_relu
from gpuconv.ops.conv.conv2d_wgrad import conv2d_wgrad

__all__ = ["bias_grad", "conv2d", "conv2d_backward", "conv2d_dgrad", "conv2d_relu", "conv2d_wgrad"]
