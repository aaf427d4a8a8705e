"""A student's convolution, written for an assignment in NumPy and in PyTorch's layout, against gpuconv's oracle.

Then a net on the handwritten digits is trained, tested, saved, loaded, and applied to one image.
"""

import tempfile
from pathlib import Path

import numpy as np

import gpuconv as gc
from gpuconv.layers import Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, *, stride: int = 1, padding: int = 0) -> np.ndarray:
    """x: (N, C, H, W), w: (F, C, HH, WW), b: (F,)."""
    n, _, h, width = x.shape
    f, _, hh, ww = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = 1 + (h + 2 * padding - hh) // stride, 1 + (width + 2 * padding - ww) // stride
    out = np.zeros((n, f, rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + hh, j * stride : j * stride + ww]
            out[:, :, i, j] = np.einsum("nchw,fchw->nf", window, w) + b
    return out


def main() -> None:
    cases = [
        dict(x=(2, 6, 6, 3), w=(4, 3, 3, 3), bias=(4,), padding=1),
        dict(x=(1, 7, 5, 2), w=(3, 3, 3, 2), bias=(3,), stride=2),
    ]
    found = gc.checks.compare(conv_forward, gc.ops.conv2d, cases, layout="NCHW")
    print(found)
    assert found.passed

    train, test = gc.data.load("digits")
    net = gc.Sequential(
        [Input((8, 8, 1)), Conv2D(16, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(10)], seed=1
    )
    print(net)
    print(gc.checks.gradient_check(net, samples=5))
    gc.Trainer(net, "adam", lr=3e-3).fit(train, epochs=5, progress=False)
    print(f"test accuracy {gc.evaluate(net, test).accuracy:.1%}")

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.safetensors"
        net.save(file)
        again = gc.load(file)
    best = ", ".join(f"{name} {chance:.1%}" for name, chance in again.predict(test.images[0], top=3))
    print(f"the first test image is a {test.classes[test.labels[0]]}; the net says {best}")


if __name__ == "__main__":
    main()
