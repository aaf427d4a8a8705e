"""Wrong arguments of pictures are refused with errors of gpuconv, not of NumPy or matplotlib."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import plots

pytest.importorskip("matplotlib")

SCORES = np.full(3, 1 / 3)
VOLUMES = [("conv1", np.zeros((4, 4, 2)))]
TENSOR = ("outputs", "conv1")


IMAGE = np.zeros((4, 4))


def activations(image=IMAGE, volumes=VOLUMES, **options):
    return plots.activations(image, volumes, SCORES, "abc", **options)


CALLS = {
    "activations, image": (lambda: activations("x"), TypeError, "an image must hold numbers .*, received dtype .*U1"),
    "activations, integers": (
        lambda: activations(np.zeros((4, 4, 3), int)),
        TypeError,
        "an image is uint8 or floats between 0 and 1, received int64",
    ),
    "activations, masked image": (
        lambda: activations(np.ma.masked_array(IMAGE, IMAGE > 0)),
        TypeError,
        "an image must not be a masked array",
    ),
    "activations, complex image": (
        lambda: activations(np.zeros((4, 4), complex)),
        TypeError,
        "an image is uint8 or floats between 0 and 1, received complex128",
    ),
    "activations, empty image": (
        lambda: activations(np.zeros((0, 4))),
        ValueError,
        r"an image is \(H, W\) or \(H, W, C\), with no size of 0, received shape \(0, 4\)",
    ),
    "activations, vector as image": (
        lambda: activations(np.zeros(64)),
        ValueError,
        r"an image is \(H, W\) or \(H, W, C\), with no size of 0, received shape \(64,\)",
    ),
    "activations, number as image": (
        lambda: activations(np.float32(1)),
        ValueError,
        r"an image is \(H, W\) or \(H, W, C\), with no size of 0, received shape \(\)",
    ),
    "activations, batch of images": (
        lambda: activations(np.zeros((2, 4, 4, 3))),
        ValueError,
        r"an image is \(H, W\) or \(H, W, C\), with no size of 0, received shape \(2, 4, 4, 3\)",
    ),
    "activations, matrix as volume": (
        lambda: activations(volumes=[("conv1", np.zeros((2, 2)))]),
        ValueError,
        r"a layer's volume is \(H, W, C\) or \(C,\), with no size of 0, received shape \(2, 2\)",
    ),
    "activations, empty volume": (
        lambda: activations(volumes=[("conv1", np.zeros((2, 2, 0)))]),
        ValueError,
        r"a layer's volume is \(H, W, C\) or \(C,\), with no size of 0, received shape \(2, 2, 0\)",
    ),
    "activations, truth": (lambda: activations(truth=3), ValueError, "truth must be at most 2, received 3"),
    "activations, negative truth": (lambda: activations(truth=-1), ValueError, "truth must be at least 0, received -1"),
    "activations, no classes": (
        lambda: plots.activations(IMAGE, VOLUMES, SCORES, None),
        TypeError,
        "classes are a list of names, received NoneType",
    ),
    "activations, dictionary of volumes": (
        lambda: activations(volumes={"conv1": VOLUMES[0][1]}),
        TypeError,
        r"volumes are pairs \(name, array\), received str in place of one",
    ),
    "activations, number of volumes": (
        lambda: activations(volumes=3),
        TypeError,
        r"volumes are pairs \(name, array\), received int",
    ),
    "activations, rows": (lambda: activations(rows=0), ValueError, "rows must be at least 1, received 0"),
    "curves, record": (lambda: plots.curves([5]), TypeError, "a history is a list of dictionaries, received int"),
    "curves, number": (lambda: plots.curves(5), TypeError, "a history is a list of dictionaries, received int"),
    "curves, no epoch": (
        lambda: plots.curves([{"train_loss": 1.0}]),
        ValueError,
        "each record needs an entry 'epoch', received the entries train_loss",
    ),
    "curves, loss": (
        lambda: plots.curves([{"epoch": 1, "train_loss": "low"}]),
        TypeError,
        "train_loss must be a number, received 'low'",
    ),
    "curves, array": (
        lambda: plots.curves([{"epoch": 1, "train_loss": np.zeros(2)}]),
        TypeError,
        "train_loss must be a number, received array",
    ),
    "curves, epoch": (lambda: plots.curves([{"epoch": "one"}]), TypeError, "epoch must be a number, received 'one'"),
    "shares, share": (
        lambda: plots.shares({"relu": {"A": "small"}}),
        TypeError,
        "the shares of 'relu' must be numbers, received 'small'",
    ),
    "shares, array": (
        lambda: plots.shares({"relu": {"A": np.zeros(2)}}),
        TypeError,
        "the shares of 'relu' must be numbers, received array",
    ),
    "rates, lengths": (
        lambda: plots.rates([0.1, 1.0], [2.0], [2.0, 1.0]),
        ValueError,
        r"rates, losses and smoothed must be of one length, received 2, 1 and 2",
    ),
    "rates, negative": (
        lambda: plots.rates([-0.1, 1.0], [2.0, 1.0], [2.0, 1.0]),
        ValueError,
        "rates must be above 0, received -0.1",
    ),
    "rates, NaN": (
        lambda: plots.rates([np.nan, 1.0], [2.0, 1.0], [2.0, 1.0]),
        ValueError,
        "rates must be above 0, received nan",
    ),
    "rates, no loss": (
        lambda: plots.rates([0.1, 1.0], [2.0, 1.0], [np.nan, np.inf]),
        ValueError,
        "needs at least one finite loss in `smoothed`, received none",
    ),
    "rates, suggestion": (
        lambda: plots.rates([0.1, 1.0], [2.0, 1.0], [2.0, 1.0], "x"),
        TypeError,
        "suggestion must be a number, received 'x'",
    ),
    "filters, empty": (
        lambda: plots.filters(np.zeros((0, 3, 3, 1))),
        ValueError,
        r"filters are \(K, R, S, C\), with no size of 0, received shape \(0, 3, 3, 1\)",
    ),
    "differences, first": (
        lambda: plots.differences({TENSOR: {1: 0.5}}, first=5),
        ValueError,
        r"first must be \(step, tensor\) such that rows\[tensor\] has this step, received 5",
    ),
    "pixels": (lambda: plots.pixels(None), TypeError, "figure must be matplotlib's, received NoneType"),
    "save": (lambda: plots.save(5, "x.png"), TypeError, "figure must be matplotlib's, received int"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call()
    assert not list(tmp_path.iterdir())
