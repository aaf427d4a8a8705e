"""Replaces pictures by files of one pixel, because matplotlib takes 0.15 s for a picture. A test with the
fixture `pictures` draws real ones."""

import base64
import contextlib
import functools

import pytest

from gpuconv import plots
from gpuconv.system import files

DRAW = plots.draw
PIXEL = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@functools.wraps(DRAW)
def draw_one_pixel(path, make):
    files.write(plots.target(path), PIXEL)


@contextlib.contextmanager
def blank():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", draw_one_pixel)
        yield


@contextlib.contextmanager
def drawn():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", DRAW)
        yield
