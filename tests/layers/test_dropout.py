"""Dropout: a new mask for each forward, from its own part of the random stream."""

import numpy as np

from gpuconv import ops
from gpuconv.layers import Dropout, Input, Sequential
from tests.layers.layer_cases import fresh


def test_dropout_draws_a_new_mask_in_each_forward_and_reuses_it_in_backward():
    drop = fresh(Dropout(0.5), (50,))
    x = np.ones((4, 50))
    first, second = drop.forward(x, True), drop.forward(x, True)
    assert (first != second).any()
    np.testing.assert_array_equal(drop.backward(x), second)
    assert drop["offset"].tolist() == [100]
    assert drop["offset"].dtype == np.int64
    np.testing.assert_array_equal(first, ops.dropout(x, p=0.5, seed=3, substream=0, offset=0))
    assert drop.forward(x) is x
    assert drop["offset"].tolist() == [100]


def test_two_masks_share_no_random_word():
    """Four words are drawn at once; the next mask does not use the leftover ones."""
    for size, blocks in {1: 1, 3: 1, 4: 1, 5: 2, 6: 2, 8: 2, 9: 3}.items():
        drop, x = fresh(Dropout(0.5), (size,)), np.ones((1, size))
        drop.forward(x, True)
        second = drop.forward(x, True)
        np.testing.assert_array_equal(second, ops.dropout(x, p=0.5, seed=3, substream=0, offset=blocks))
        assert drop["offset"].tolist() == [2 * blocks]


def test_two_dropouts_of_a_net_have_different_masks():
    net = Sequential([Input((40,)), Dropout(0.5), Dropout(0.5)], seed=7)
    assert net[1].substream != net[2].substream
    assert net[1].seed == net[2].seed == 7
    masks = [layer.forward(np.ones((1, 40), np.float32), True) for layer in (net[1], net[2])]
    assert not np.array_equal(*masks)


def test_dropouts_from_two_nets_draw_different_masks():
    one, two = (Sequential([Input((50,)), Dropout(0.5)]) for _ in range(2))
    joined = Sequential([one[0], one[1], two[1]])
    masks = [joined[1].forward(np.ones((1, 50), "f4"), True), joined[2].forward(np.ones((1, 50), "f4"), True)]
    assert not np.array_equal(*masks)
