"""Muon: its orthogonal step, the precision of its products, and what it refuses."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.training import Muon, optimizers


def test_muon_normalizes_the_parameter_and_takes_an_orthogonal_step():
    draw = np.random.default_rng(0)
    param, grad = {"w": draw.standard_normal((5, 3, 2, 2))}, {"w": draw.standard_normal((5, 3, 2, 2))}
    before = param["w"] / np.linalg.norm(param["w"]) * np.sqrt(5)
    Muon(lr=1.0, momentum=0.5, nesterov=False).step(param, grad)
    step = (before - param["w"]).reshape(5, -1)
    left, _, right = np.linalg.svd(grad["w"].reshape(5, -1), full_matrices=False)
    values = left.T @ step @ right.T  # the step's length along each singular direction, near 1 after Newton-Schulz
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-10)
    assert 0.5 < np.diag(values).min() <= np.diag(values).max() < 1.3


@pytest.mark.parametrize(
    ("dtype", "options", "precision"),
    [
        ("float16", "", "bfloat16"),
        ("float32", "", "full"),
        ("float32", ":matmul_precision=bfloat16", "bfloat16"),
        ("float16", ":matmul_precision=full", "full"),
        ("float16", ":matmul_precision=TF32", "tf32"),
        ("float16", ":tf32=auto", "bfloat16"),
        ("float32", ":tf32=true", "tf32"),
        ("float16", ":tf32=false", "full"),
    ],
)
def test_muon_multiplies_16_bit_parameters_in_bfloat16_unless_told_otherwise(dtype, options, precision, monkeypatch):
    precisions = []
    monkeypatch.setattr(ops, "muon_step", lambda *_, precision, **__: precisions.append(precision))
    muon = optimizers.get(f"muon{options}")
    muon.step({"w": np.ones((2, 3), dtype)}, {"w": np.ones((2, 3), dtype)})
    again = optimizers.get(**muon.config())  # as in a resumed run
    again.step({"w": np.ones((2, 3), dtype)}, {"w": np.ones((2, 3), dtype)})
    assert precisions == [precision, precision]


def test_biases_and_weight_decay_are_refused():
    with pytest.raises(ValueError, match=r"not conv1\.bias"):
        Muon().build({"conv1.weight": np.ones((3, 2, 2, 1)), "conv1.bias": np.ones(3)})
    with pytest.raises(ValueError, match="takes no weight_decay"):
        Muon(weight_decay=0.1)


def test_the_earlier_setting_tf32_may_stand_beside_auto_in_any_spelling():
    assert Muon(matmul_precision="Auto", tf32=True).matmul_precision == "tf32"
