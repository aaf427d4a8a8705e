"""The sum, norm and hash in a tensor's digest are right in every float dtype and for any values. A tensor on a GPU is
read there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import xxhash

from gpuconv import backends, ops
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Input, Linear, ReLU, Residual, Sequential
from gpuconv.training import Digests, Trainer, tensor_sums
from gpuconv.training.tensor_digests import Digest, read
from tests import standin


def test_sums_norms_and_hashes_of_each_float_dtype_are_right():
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        values = backends.asarray(np.array([[3.0, -4.0], [0.0, 12.0]]), dtype=dtype)
        digest = Digest.of("forward", "x", values)
        assert (digest.sum, digest.norm, digest.size, digest.dtype) == (11.0, 13.0, 4, dtype)
        assert digest.hash == f"xxh3:{xxhash.xxh3_64_hexdigest(values.tobytes())}"
        assert Digest.of("forward", "x", values * np.nan).norm is None
    moved = Digest.of("update", "x", np.array([3.0, 4.0], np.float32), before=np.array([0.0, 0.0], np.float32))
    assert moved.moved == 5.0


def test_sums_and_norms_are_within_the_error_that_a_digest_states():
    rng = np.random.default_rng(0)
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        for size in (0, 1, 255, 257, 4095, 4096, 4097, 20_001, 600_000):
            for values in (rng.normal(size=size), rng.uniform(size=size), 10.0 ** rng.uniform(-3, 3, size)):
                tensor = backends.asarray(values, dtype=dtype)
                exact = np.asarray(tensor).astype(np.float64)
                digest = Digest.of("update", "x", tensor.reshape(-1, 1), before=-tensor.reshape(-1, 1))
                norm = np.linalg.norm(exact)
                assert abs(digest.norm - norm) <= digest.error, (dtype, size)
                assert abs(digest.sum - exact.sum()) <= digest.error * np.sqrt(size), (dtype, size)
                assert digest.moved == pytest.approx(2 * norm, rel=1e-5)
                assert digest.error <= 2e-5 * norm


def test_numbers_that_float32_cannot_square_are_summed_in_float64():
    for scale in (3e38, 1e30, 1e-30, 1e-44):
        for size in (4, 2000, 20_000):
            values = np.full(size, scale, np.float32)
            digest = Digest.of("update", "x", values, before=0 * values)
            exact = float(values[0]) * np.sqrt(size)
            assert (digest.norm, digest.moved) == pytest.approx((exact, exact)), (scale, size)
            assert digest.sum == pytest.approx(float(values[0]) * size), (scale, size)
    assert Digest.of("forward", "x", np.zeros(20_000, np.float32)).norm == 0.0


def test_a_hash_names_its_kind_and_depends_on_every_bit():
    values = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    hashes = [Digest.of("forward", "x", values).hash]
    for at in (0, 299_999):
        flipped = values.copy()
        flipped.view(np.uint32)[at] ^= 1
        hashes.append(Digest.of("forward", "x", flipped).hash)
    assert hashes[0] == f"xxh3:{xxhash.xxh3_64_hexdigest(values)}"
    assert len(set(hashes)) == 3


@pytest.mark.kernels
def test_tensors_on_a_gpu_are_read_there(tmp_path, monkeypatch):
    """The digests copy only tables of results to the host. The stand-in for CuPy provides the GPU."""
    copied, tensors_seen = [], []

    class Keeping(Digests):
        def seen(self, direction, name, tensor, scale):
            tensors_seen.append((direction, name, np.array(backends.to_numpy(tensor)), scale))

    def to_numpy(array):
        copied.append(array.shape)
        return backends.to_numpy(array)

    monkeypatch.setattr(tensor_sums, "backends", SimpleNamespace(**vars(backends) | dict(to_numpy=to_numpy)))
    row = [Conv2D(4, 3, padding=1), BatchNorm(), ReLU(), Residual([Conv2D(4, 3, padding=1)]), Flatten(), Linear(3)]
    with standin.installed(["90"]):
        run = Trainer(Sequential([Input((6, 6, 1)), *row], seed=1, device="cuda"), "adam", lr=0.01)
        data = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 1)).astype(np.uint8), np.arange(16) % 3
        run.fit(data, epochs=1, batch_size=8, progress=False, callbacks=[Keeping(tmp_path / "digests.jsonl")])
    assert copied == [(64, 5)] * 2  # one for each step
    tensors = [digest for step in read(tmp_path / "digests.jsonl") for digest in step.tensors]
    assert len(tensors) == len(tensors_seen)
    for digest, (direction, name, values, scale) in zip(tensors, tensors_seen, strict=True):
        assert (digest.direction, digest.name, digest.dtype) == (direction, name, values.dtype.name)
        upper, lower, total, squares, _ = ops.digest(values)
        if direction == "loss":
            assert digest.kind == "xxh3"
        else:
            assert digest.hash == f"splitmix:{int(upper):08x}{int(lower):08x}"
        assert digest.sum == pytest.approx(total / scale, rel=1e-8, abs=1e-12)
        assert digest.norm == pytest.approx(np.sqrt(squares) / scale, rel=1e-8)


def test_any_name_and_number_can_be_written():
    """Names may contain format characters such as %. Numbers that are not finite, or too large, are stored as null.
    `Digest.of` writes a digest as JSON and reads it back."""
    names = ["%", "%s", "%.9g", "100 %d", '"', "nan, inf"]
    for name in names:
        for value, norm in ((3.0, 3.0), (np.nan, None), (np.inf, None)):
            digest = Digest.of("forward", name, np.array([value], np.float32))
            assert (digest.name, digest.sum, digest.norm) == (name, norm, norm)
    assert Digest.of("forward", "x", np.array([1.2e308])).sum is None
    assert Digest.of("forward", "x", np.array([2**53 - 1])).sum == 2**53 - 1
    assert Digest.of("forward", "x", np.array([1 / 3])).sum == 1 / 3
