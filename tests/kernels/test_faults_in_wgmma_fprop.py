"""Faults planted one at a time in the wgmma kernel of the forward convolution. The emulated device's checker names each
fault.

test_warpgroups.py plants faults in a small ring of its own.
"""

from __future__ import annotations

import pytest

from gpuconv.algorithms import find
from gpuconv.verify.conv_problems import conv
from tests.kernels.convolutions import force_algorithm
from tests.kernels.wgmma_faults import FAULTS_OF_FPROP, FPROP, assert_found, planted

# One block computes six tiles, and fills the ring one and a half times for each tile.
CASE = conv(1, 17, 16, 64, 136, 3, padding=1)


@pytest.mark.parametrize("fault", FAULTS_OF_FPROP)
def test_the_checker_names_the_fault(monkeypatch, tmp_path, fault):
    file, before, after, text = FAULTS_OF_FPROP[fault]
    force_algorithm(monkeypatch, find("wgmma-128x128", "bfloat16"), 1, 1)
    with planted(tmp_path, FPROP, (file, before, after)):
        assert_found(FPROP, "conv2d", CASE, text, seeds=range(4))
