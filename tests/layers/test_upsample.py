"""Upsampling: values computed by hand, devices, and stored layers without a mode."""

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.layers import Layer, Upsample
from tests.layers.layer_cases import fresh


def test_upsampling_repeats_pixels_exactly():
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        layer = Upsample((2, 3))
        layer.build((3, 2, 5), dtype=dtype)
        assert layer.parameter_count == 0
        x = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(layer.dtype)
        x[0, 0, 0, 0] = np.nan
        y = layer(x)
        np.testing.assert_array_equal(y.astype(float), x.astype(float).repeat(2, axis=1).repeat(3, axis=2))
        dx = layer.backward(np.ones(y.shape, layer.dtype))
        np.testing.assert_array_equal(dx.astype(float), np.full(x.shape, 6.0))


def test_bilinear_upsampling_gives_the_values_computed_by_hand():
    x = np.array([[0.0, 4.0], [8.0, 0.0]]).reshape(1, 2, 2, 1)
    rows = {2: [0, 1, 3, 4], 3: [0, 0, 4 / 3, 8 / 3, 4, 4]}
    for scale, row in rows.items():
        layer = fresh(Upsample((1, scale), mode="Bilinear"), (2, 2, 1))
        expected = [row, [8 - 2 * value for value in row]]
        np.testing.assert_allclose(layer(x)[0, :, :, 0], expected, rtol=1e-15, atol=1e-15)


@pytest.mark.kernels
def test_bilinear_upsampling_on_the_emulated_device_agrees_with_numpy():
    x = np.random.default_rng(4).normal(size=(2, 3, 4, 3)).astype("float32")
    for scale in ((2, 3), 4):
        results = {}
        for device in ("numpy", "emulated"):
            layer = Upsample(scale, "bilinear")
            layer.build(x.shape[1:], device=device)
            y = layer(asarray(x, device))
            results[device] = [to_numpy(y), to_numpy(layer.backward(y))]
        for one, other in zip(*results.values(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_upsampling_stored_without_a_mode_repeats_pixels():
    config = Upsample(2).config()
    assert config.pop("mode") == "nearest"
    assert Layer.from_config(config).mode == "nearest"
