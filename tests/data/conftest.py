"""Allows CIFAR-10 files of a few images."""

import pytest

from gpuconv.data import cifar10
from tests.data.cifar10_files import COUNT


@pytest.fixture
def short_files(monkeypatch):
    """Makes the reader expect COUNT images in each CIFAR-10 file."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", COUNT)
