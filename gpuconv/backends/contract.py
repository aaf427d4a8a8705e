"""Each op's signature and meaning. Every backend mirrors the signatures; `gpuconv.ops` shows these docstrings.

Conventions of every op:

- Activation volumes are (N, H, W, C), filters (K, R, S, C // groups), linear weights (out_features, in_features).
- Arrays are float64, float32, float16 or bfloat16 and of one dtype a call. float64 accumulates in float64,
  the others in float32, and each result is rounded once.
- ``out`` receives the result as in NumPy's ufuncs, and is returned. It may share memory with an input: the result is
  the same as if it did not. Two outputs that share memory, and a read-only one, raise ValueError. Ops that make
  parameter gradients take ``accumulate``: True adds to the given arrays instead of overwriting them.
- Subclasses of NumPy's array are taken as plain arrays. Masked arrays, the other byte order and dtypes that hold no
  numbers raise TypeError.
- ``stride``, ``dilation`` and ``kernel_size`` are an integer or (height, width). ``padding`` is an integer,
  (height, width), ((top, bottom), (left, right)), "same" or "valid". Dilation counts from 1.
- ``fit`` says what happens where windows do not tile the padded input: "floor" drops the rest, "exact" raises and
  names the sizes that would fit, "cover" adds a last partial window.
- ``algo`` names an algorithm of `gpuconv.algorithms`, which changes the order of a sum at most; "auto" leaves it to the
  device. NumPy has one arithmetic whatever the name.
- ``tf32=True`` multiplies float32 arrays in TF32: both factors of each product are rounded to 10 bits behind the point
  (to nearest, ties away from zero, as ``cvt.rna.tf32.f32`` does), sums are float32; a bias is not rounded.
- ``lr``, ``step``, ``offset``, ``start`` and ``grad_scale`` may be a number or a one-element array on the device.
- Bad sizes and values raise ValueError, bad types, dtypes and mixed devices TypeError, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Array = Any
Size = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | str
Scalar = Any

# --- convolution -------------------------------------------------------------------------------


def conv2d(
    x: Array, w: Array, bias: Array | None = None, *, stride: Size = 1, padding: Padding = 0, dilation: Size = 1,
    groups: int = 1, activation: str | None = None, fit: str = "floor", algo: str = "auto", tf32: bool = False,
    out: Array | None = None,
) -> Array:
    """Cross-correlation of a volume with a filter bank, fprop.

    y[n, p, q, k] = act(bias[k] + sum over r, s, c of x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
    * w[k, r, s, c]), where x is zero outside its border and filter k reads the channels of its own group.

    x: (N, H, W, C). w: (K, R, S, C // groups). bias: (K,) or None. activation: None or the name of an activation op,
    applied with that op's defaults. Returns y: (N, P, Q, K).
    """
    ...


def conv2d_relu(
    x: Array, w: Array, bias: Array | None = None, *, pool: int = 1, stride: Size = 1, padding: Padding = 0,
    dilation: Size = 1, groups: int = 1, fit: str = "floor", algo: str = "auto", tf32: bool = False,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """relu(conv2d(...)), with pool=2 followed by max_pool2d of 2 x 2 windows at stride 2, of which an odd last row and
    column are dropped; and the mask that the two gradients of conv2d take.

    y: (N, P, Q, K), or (N, P // 2, Q // 2, K). mask: uint8, a bit for each number that the convolution made and y
    depends on, set where its gradient passes: it is positive and, with pool=2, the first of the largest of its window.
    For each place of y and each group, ceil(K / groups * pool**2 / 8) bytes side by side: bit i * pool**2 + j of them,
    counted from the lowest bit of the first, belongs to the group's filter i and pixel j of the window in row-major
    order. So mask: (N, P, Q, groups * bytes) with y's P and Q. Bits past the last filter are 0.

    Other arguments as in conv2d. Returns y and mask.
    """
    ...


def conv2d_dgrad(
    dy: Array, w: Array, *, input_shape: Sequence[int], stride: Size = 1, padding: Padding = 0, dilation: Size = 1,
    groups: int = 1, fit: str = "floor", algo: str = "auto", tf32: bool = False, mask: Array | None = None,
    pool: int = 1, out: Array | None = None,
) -> Array:
    """The gradient of conv2d to its input: dx[n, h, w, c] = sum of dy[n, p, q, k] * w[k, r, s, c] over every
    (p, q, r, s) that reads (h, w).

    dy: (N, P, Q, K). w: (K, R, S, C // groups). input_shape: (N, H, W, C). Returns dx: (N, H, W, C).

    mask, pool: of conv2d_relu, whose gradient to x this then is. dy has the shape of its y, (N, P // 2, Q // 2, K) with
    pool=2; it passes where the mask has a bit and is zero elsewhere.
    """
    ...


def conv2d_wgrad(
    dy: Array, x: Array, *, kernel_size: Size, stride: Size = 1, padding: Padding = 0, dilation: Size = 1,
    groups: int = 1, fit: str = "floor", algo: str = "auto", tf32: bool = False, mask: Array | None = None,
    pool: int = 1, out: Array | None = None, db: Array | None = None, accumulate: bool = False,
) -> Array:
    """The gradient of conv2d to its filters: dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k]
    * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c].

    dy: (N, P, Q, K). x: (N, H, W, C). mask, pool: as in conv2d_dgrad. db: (K,), where given, receives the bias's
    gradient as `out` does the filters': the sum of dy, where it passes, over n, p, q.
    Returns dw: (K, R, S, C // groups).
    """
    ...


def conv2d_backward(
    dy: Array, x: Array, w: Array, *, stride: Size = 1, padding: Padding = 0, dilation: Size = 1, groups: int = 1,
    fit: str = "floor", algo: str = "auto", tf32: bool = False, mask: Array | None = None, pool: int = 1,
    out: Array | None = None, dw: Array | None = None, db: Array | None = None, accumulate: bool = False,
) -> tuple[Array, Array]:
    """All gradients of conv2d: conv2d_dgrad and conv2d_wgrad in one call, for which a backend may read dy once.

    dy: (N, P, Q, K). x: (N, H, W, C). w: (K, R, S, C // groups). mask, pool: as in conv2d_dgrad. db: as in
    conv2d_wgrad. accumulate adds to dw and db; dx is always assigned. Returns dx (in out), dw.
    """
    ...


def bias_grad(dy: Array, *, out: Array | None = None, accumulate: bool = False) -> Array:
    """The gradient to a bias: the sum of dy over all axes but the last.

    dy: (..., K), of rank 2 or more. Returns db: (K,).
    """
    ...


# --- pooling -----------------------------------------------------------------------------------


def max_pool2d(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Padding = 0, fit: str = "floor",
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The largest value of each window. NaN wins; ties go to the first in row-major window order; padding is -inf
    and never wins, not even over -inf in the input.

    x: (N, H, W, C). stride defaults to kernel_size. Returns y: (N, P, Q, C) and argmax: (N, P, Q, C), the index
    r * S + s inside the window, in the smallest unsigned dtype that holds R * S - 1.
    """
    ...


def max_pool2d_backward(
    dy: Array, argmax: Array, *, input_shape: Sequence[int], kernel_size: Size, stride: Size | None = None,
    padding: Padding = 0, fit: str = "floor", out: Array | None = None,
) -> Array:
    """Route dy to the input cell that won each window; cells that won several windows get the sum.

    dy, argmax: (N, P, Q, C). input_shape: (N, H, W, C). Returns dx: (N, H, W, C).
    """
    ...


def avg_pool2d(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Padding = 0, count_include_pad: bool = True,
    fit: str = "floor", out: Array | None = None,
) -> Array:
    """The mean of each window. Padding counts as zeros in it, unless count_include_pad=False, which divides by the
    window's cells inside the input. Cells that "cover" adds past the padding never count (PyTorch's rules).

    x: (N, H, W, C). Returns y: (N, P, Q, C).
    """
    ...


def avg_pool2d_backward(
    dy: Array, *, input_shape: Sequence[int], kernel_size: Size, stride: Size | None = None, padding: Padding = 0,
    count_include_pad: bool = True, fit: str = "floor", out: Array | None = None,
) -> Array:
    """The gradient of avg_pool2d: dy / divisor of its window, summed over the windows that read a cell.

    dy: (N, P, Q, C). input_shape: (N, H, W, C). Returns dx: (N, H, W, C).
    """
    ...


def global_avg_pool2d(x: Array, *, out: Array | None = None) -> Array:
    """The mean of each map. x: (N, H, W, C). Returns y: (N, 1, 1, C)."""
    ...


def global_avg_pool2d_backward(dy: Array, *, input_shape: Sequence[int], out: Array | None = None) -> Array:
    """dx = dy / (H * W) everywhere. dy: (N, 1, 1, C). Returns dx: (N, H, W, C) = input_shape."""
    ...


# --- activations (any shape; out may be the input itself) --------------------------------------


def relu(x: Array, *, out: Array | None = None) -> Array:
    """max(x, 0); NaN passes. Returns y of x's shape."""
    ...


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """dx = dy where y > 0, else 0. y: what relu returned."""
    ...


def leaky_relu(x: Array, *, negative_slope: float = 0.01, out: Array | None = None) -> Array:
    """x where x > 0, else negative_slope * x, with negative_slope >= 0."""
    ...


def leaky_relu_backward(dy: Array, y: Array, *, negative_slope: float = 0.01, out: Array | None = None) -> Array:
    """dx = dy where y > 0, else negative_slope * dy. y: what leaky_relu returned."""
    ...


def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), without overflow for any x."""
    ...


def sigmoid_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """dx = dy * y * (1 - y). y: what sigmoid returned."""
    ...


def tanh(x: Array, *, out: Array | None = None) -> Array:
    """The hyperbolic tangent."""
    ...


def tanh_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """dx = dy * (1 - y**2). y: what tanh returned."""
    ...


def gelu(x: Array, *, approximate: str = "none", out: Array | None = None) -> Array:
    """x * Phi(x), Phi the standard normal distribution function (Hendrycks and Gimpel 2016); approximate="tanh" takes
    0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))).
    """
    ...


def gelu_backward(dy: Array, x: Array, *, approximate: str = "none", out: Array | None = None) -> Array:
    """dx = dy * d gelu(x) / dx. x: what gelu was given."""
    ...


def silu(x: Array, *, out: Array | None = None) -> Array:
    """x * sigmoid(x)."""
    ...


def silu_backward(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """dx = dy * (s + x * s * (1 - s)), s = sigmoid(x). x: what silu was given."""
    ...


def softmax(x: Array, *, out: Array | None = None) -> Array:
    """exp(x) / sum of exp(x) over each row, computed after taking the row's largest value off.

    x: (N, classes). Returns probabilities of x's shape.
    """
    ...


# --- arithmetic (any shape; out may be an input) -----------------------------------------------


def add(a: Array, b: Array, *, out: Array | None = None) -> Array:
    """a + b, of one shape: where the ways around a residual block meet."""
    ...


def scale(x: Array, *, factor: float, out: Array | None = None) -> Array:
    """x * factor, the factor rounded to the accumulation dtype."""
    ...


def add_metrics(totals: Array, loss: Array, scores: Array, labels: Array) -> None:
    """Count a batch in running sums on the device: totals += (loss * N, right answers, N, 1 while totals[0] is finite).

    totals: (4,) float64, changed in place. loss: the batch's mean loss, 0-d, in the accumulation dtype. scores:
    (N, classes), of which the first largest one is the answer (NaN counts as largest). labels: (N,) int64.
    """
    ...


# --- linear ------------------------------------------------------------------------------------


def linear(
    x: Array, w: Array, bias: Array | None = None, *, activation: str | None = None, algo: str = "auto",
    tf32: bool = False, out: Array | None = None,
) -> Array:
    """act(x @ w.T + bias). x: (N, in_features). w: (out_features, in_features). Returns y: (N, out_features)."""
    ...


def linear_dgrad(
    dy: Array, w: Array, *, algo: str = "auto", tf32: bool = False, out: Array | None = None
) -> Array:
    """dx = dy @ w. dy: (N, out_features). Returns dx: (N, in_features)."""
    ...


def linear_wgrad(
    dy: Array, x: Array, *, algo: str = "auto", tf32: bool = False, out: Array | None = None,
    db: Array | None = None, accumulate: bool = False,
) -> Array:
    """dw = dy.T @ x. dy: (N, out_features). x: (N, in_features). db: (out_features,), where given, receives the sum of
    dy over the batch. Returns dw: (out_features, in_features).
    """
    ...


# --- normalisation and dropout -----------------------------------------------------------------


def batch_norm(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, training: bool,
    momentum: float = 0.1, eps: float = 1e-5, activation: str | None = None, out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """y = act(gamma * (x - mean) * inv_std + beta) for each channel, inv_std = 1 / sqrt(var + eps)
    (Ioffe and Szegedy 2015).

    training=True takes mean and (biased) variance over all axes but the last, and updates the running statistics in
    place: running = (1 - momentum) * running + momentum * batch, with the unbiased variance. training=False takes
    the running statistics.

    x: (..., C). gamma, beta, running_mean, running_var: (C,) in the dtype x accumulates in. activation: None or the
    name of an activation op, applied with that op's defaults to the value rounded to x's dtype. Returns y of x's shape,
    and the mean and inv_std used, (C,) in that dtype.
    """
    ...


def conv2d_batch_norm(
    x: Array, w: Array, bias: Array | None, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *,
    stride: Size = 1, padding: Padding = 0, dilation: Size = 1, groups: int = 1, fit: str = "floor",
    momentum: float = 0.1, eps: float = 1e-5, activation: str | None = None, algo: str = "auto", tf32: bool = False,
    out: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """batch_norm(conv2d(x, w, bias), training=True), the statistics taken where the convolution is made.

    Arguments as of those two. Returns y (in out), what conv2d gives, and the mean and inv_std used: the last three are
    what batch_norm_backward takes.
    """
    ...


def batch_norm_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, inv_std: Array, *, beta: Array | None = None,
    activation: str | None = None, training: bool = True, out: Array | None = None, dgamma: Array | None = None,
    dbeta: Array | None = None, accumulate: bool = False,
) -> tuple[Array, Array, Array]:
    """With xhat = (x - mean) * inv_std: dbeta = sum dy, dgamma = sum dy * xhat over all axes but the last, and
    dx = gamma * inv_std * (dy - (dbeta + xhat * dgamma) / M), M values a channel; training=False has constant
    statistics, so dx = gamma * inv_std * dy.

    mean, inv_std: what batch_norm returned. With an activation, dy is the gradient to its output, and beta is needed:
    what the activation was given is computed again, and dy stands above for what passes it. accumulate adds to dgamma
    and dbeta; dx is always assigned (and uses this call's sums alone). Returns dx (in out), dgamma, dbeta.
    """
    ...


def dropout(
    x: Array, *, p: float, seed: int, substream: int = 0, offset: Scalar = 0, out: Array | None = None
) -> Array:
    """Inverted dropout: each element is zeroed with probability p in [0, 1), the others are divided by 1 - p.

    Element i of x (row-major) is kept when uniform i of gpuconv.random's DROPOUT stream (seed, substream, offset in
    blocks of four) is at least p, so a mask is the same on every device and is never stored. The scale is
    1 / (1 - p), rounded once to the accumulation dtype.
    """
    ...


def dropout_backward(
    dy: Array, *, p: float, seed: int, substream: int = 0, offset: Scalar = 0, out: Array | None = None
) -> Array:
    """dx = dy under the mask and scale of the dropout call with the same p, seed, substream and offset."""
    ...


# --- losses ------------------------------------------------------------------------------------


def softmax_cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: float = 0.0, grad_scale: Scalar = 1.0, out: Array | None = None
) -> tuple[Array, Array]:
    """The mean over the batch of -sum over classes of t * log softmax(logits), with the target
    t = (1 - label_smoothing) * onehot(label) + label_smoothing / classes.

    logits: (N, classes). labels: (N,) integers in [0, classes); others raise ValueError on devices whose memory the
    host reads, and make the loss NaN on a GPU, which is never waited for. Returns the loss, 0-d in the accumulation
    dtype, and dlogits = grad_scale * (softmax - t) / N (in out), scaled before it is rounded.
    """
    ...


def svm_hinge(
    scores: Array, labels: Array, *, delta: float = 1.0, grad_scale: Scalar = 1.0, out: Array | None = None
) -> tuple[Array, Array]:
    """The multiclass SVM loss: mean over the batch of the sum over wrong classes j of
    max(0, scores[j] - scores[label] + delta) (Weston and Watkins 1999; not divided by the number of classes).

    Shapes, labels and returns as in softmax_cross_entropy. At a margin of exactly 0 the gradient is 0.
    """
    ...


# --- optimizer steps: whole lists of parameters in one call, updated in place ------------------
# The parameter, gradient and state arrays of one entry share a shape and a dtype. weight_decay is one number or one for
# each parameter; it adds weight_decay * param to the gradient unless said otherwise.
#
# masters: where given, the arrays that the formula updates in the parameters' place, and which the parameters are then
# rounded from. A master, and its state, is of the dtype its parameter accumulates in: float32 beside 16 bits. A
# parameter may be its own master.
# scaling: what update_loss_scale left. The gradients are multiplied by scaling[1] first; where that is 0, nothing
# changes. `step` is counted without the scaling[3] steps that were skipped.


def sgd_step(
    params: Sequence[Array], grads: Sequence[Array], velocities: Sequence[Array] | None = None,
    masters: Sequence[Array] | None = None, scaling: Array | None = None, *, lr: Scalar, momentum: float = 0.0,
    nesterov: bool = False, weight_decay: float | Sequence[float] = 0.0,
) -> None:
    """v = momentum * v + g; param -= lr * v, or lr * (g + momentum * v) with nesterov (PyTorch's form).

    velocities: start at zero; None without momentum.
    """
    ...


def adagrad_step(
    params: Sequence[Array], grads: Sequence[Array], square_sums: Sequence[Array],
    masters: Sequence[Array] | None = None, scaling: Array | None = None, *, lr: Scalar, eps: float = 1e-10,
    weight_decay: float | Sequence[float] = 0.0,
) -> None:
    """s += g**2; param -= lr * g / (sqrt(s) + eps) (Duchi et al. 2011)."""
    ...


def rmsprop_step(
    params: Sequence[Array], grads: Sequence[Array], square_averages: Sequence[Array],
    masters: Sequence[Array] | None = None, scaling: Array | None = None, *, lr: Scalar, alpha: float = 0.99,
    eps: float = 1e-8, weight_decay: float | Sequence[float] = 0.0,
) -> None:
    """s = alpha * s + (1 - alpha) * g**2; param -= lr * g / (sqrt(s) + eps) (Tieleman and Hinton 2012)."""
    ...


def adam_step(
    params: Sequence[Array], grads: Sequence[Array], exp_avgs: Sequence[Array], exp_avg_sqs: Sequence[Array],
    masters: Sequence[Array] | None = None, scaling: Array | None = None, *, lr: Scalar, step: Scalar,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float | Sequence[float] = 0.0,
    decoupled: bool = False,
) -> None:
    """m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g**2;
    param -= lr * (m / (1 - beta1**step)) / (sqrt(v / (1 - beta2**step)) + eps) (Kingma and Ba 2014).

    step counts from 1. decoupled=True is AdamW (Loshchilov and Hutter 2017): instead of adding to the gradient, the
    decay first scales param by 1 - lr * weight_decay.
    """
    ...


def update_loss_scale(
    scaling: Array, grads: Sequence[Array], *, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> None:
    """The step of a dynamic loss scale, between backward and the optimizer's (Micikevicius et al. 2018).

    scaling: (4,) float64, changed in place: [0] the scale, which the next loss gradient is to be multiplied by; [1]
    what the optimizer shall multiply these gradients by: 1 / the scale that made them, or 0 where one of their
    numbers is not finite; [2] the good steps since the scale changed; [3] the steps skipped in all. After a skipped
    step the scale is multiplied by backoff, after `interval` good ones by growth.

    grads: all gradients of the step, of any float dtypes.
    """
    ...


def muon_step(
    params: Sequence[Array], grads: Sequence[Array], velocities: Sequence[Array],
    masters: Sequence[Array] | None = None, scaling: Array | None = None, *, lr: Scalar, momentum: float = 0.0,
    nesterov: bool = False, steps: int = 5,
) -> None:
    """v = momentum * v + g; param = param * sqrt(K) / |param| - lr * orthogonal(v), with nesterov of g + momentum * v
    (Jordan et al. 2024, "Muon"; that the weights keep a norm of 1 a filter is airbench's).

    params: of rank 2 or more, taken as matrices (K, the rest); |param| is the root of the sum of squares, and a
    parameter of zeros is not scaled. orthogonal(x) divides x by |x| + 1e-7, then does `steps` Newton-Schulz steps on
    the smaller side, x = (a + b x x^T + c (x x^T)^2) x with a, b, c = 3.4445, -4.7750, 2.0315: singular values come
    near 1, not to it. steps: 0 to 100. All of it is computed in the accumulation dtype.
    """
    ...


# --- batches -----------------------------------------------------------------------------------


def load_batch(
    images: Array, labels: Array, indices: Array, *, mean: Array, std: Array, flip: bool | str = False,
    shift: int = 0, border: str = "zero", cutout: int = 0, seed: int = 0, offset: Scalar = 0, start: Scalar = 0,
    count: int | None = None, dtype: Any = "float32", out: Array | None = None,
) -> tuple[Array, Array]:
    """Gather, augment and normalise a batch out of a uint8 data set.

    The batch is indices[start : start + count]; count None takes the rest, which only a start that is a number allows.
    With N = count and indices counted from start,
    x[n] = (augment(images[indices[n]]) - mean) * (1 / std), computed in float32 and rounded once to dtype, in this
    order: a horizontal flip with probability 1/2 (flip=True); a shift by whole pixels, uniform in [-shift, shift]
    along each axis; a cutout of side `cutout` around a uniform centre, clipped at the border. Pixels cut out are 0
    after normalisation, those shifted in too, or with border="reflect" the image's, mirrored at its outermost pixels.
    Sample n draws one Philox block of the AUGMENT stream, at offset + n.

    flip="alternating" (Jordan 2024, arXiv:2404.00498): half of the images are flipped in epoch 0, those that the blocks
    at their indices in the AUGMENT stream's substream 1 say, and in every other epoch the others are. The epoch is
    (offset + n) // M, as it is where offset is the samples that came before.

    images: (M, H, W, C) uint8. labels: (M,) int64. indices: int64 in [0, M), of rank 1. mean, std: float32, (C,) or
    (H, W, C). A place past the indices, or an index past the images, raises ValueError on devices whose memory the host
    reads; on a GPU it makes its sample NaN and its label -1.
    Returns x: (N, H, W, C) and labels[indices]: (N,).
    """
    ...


# --- what changes from step to step lives on the device, where a captured step finds it ---------


def advance_clock(clock: Array, lr: Array, rates: Array, *, batch_size: int) -> None:
    """Go on to the next training step: lr = rates[clock[0]], then clock += (1, 1, batch_size, batch_size).

    clock: (4,) int64, changed in place: the place in rates and the steps done, then where the next batch begins in
    the epoch's order and in its stream of random numbers. lr: (L,), changed in place; rates: (T, L), the learning rates
    of the steps: both float32 or both float64. Past the end of the rates lr becomes NaN, which no run overlooks.
    """
    ...


def advance_counter(counter: Array, *, by: int) -> Array:
    """counter += by. counter: (1,) int64, changed in place. Returns, of the same shape, what it held before."""
    ...


# --- random numbers: fill an array in place with the very bits of gpuconv.random ---------------


def random_uniform(
    y: Array, *, low: float = 0.0, high: float = 1.0, seed: int, stream: int = 0, substream: int = 0, offset: int = 0
) -> Array:
    """Fill y, a float array of any shape, with gpuconv.random.uniform of the same arguments. Returns y."""
    ...


def random_normal(
    y: Array, *, mean: float = 0.0, std: float = 1.0, seed: int, stream: int = 0, substream: int = 0, offset: int = 0
) -> Array:
    """Fill y, a float array of any shape, with gpuconv.random.normal of the same arguments. Returns y."""
    ...


def random_permutation(order: Array, *, seed: int, epoch: int = 0, stream: int = 1) -> Array:
    """Fill order, int64 (n,), with gpuconv.random.permutation(n) of the same arguments. Returns order."""
    ...
