"""Nets that are edited as text: read, written, and refused with the number of the layer."""

from __future__ import annotations

import pytest

from gpuconv.layers import BatchNorm, Conv2D, Input, Residual, Sequential
from gpuconv.live.request_parsing import LayerError, read_net, write_net
from tests.live.sessions import CONV, do, wait_for


def test_an_edited_net_starts_a_new_run_and_an_invalid_one_names_its_layer(open_session):
    session = open_session(CONV)
    first = session.run_dir
    twice = '{"layer": "ReLU", "name": "a"}'
    wide = '{"layer": "Conv2D", "out_channels": 1000000, "kernel_size": 1}'
    narrow = '{"layer": "Conv2D", "out_channels": 1, "kernel_size": 1}'
    many = ", ".join(['{"layer": "ReLU"}'] * 300)
    for text, layer, message in [
        ("[", None, "not JSON: Expecting value: line 1 column 2$"),
        ('[\n  {"layer" 1}]', None, "not JSON: .* line 2 column 12$"),
        ('[{"layer": "Flatten"}], "x": 1', None, "not JSON: Extra data: line 1 column 23$"),
        ('3, "layers": [{"layer": "Flatten"}]', None, "not JSON: Extra data: line 1 column 2$"),
        ("[NaN]", None, "not JSON: NaN is not a finite number$"),
        ("5", None, "list"),
        ("[]", None, "list"),
        ('[{"layer": "Conv3D"}]', 0, "unknown layer"),
        ('[{"layer": "ReLU"}, {"layer": "Conv2D", "out_channels": 4}]', 1, "kernel_size"),
        ('[{"layer": "Conv2D", "out_channels": 4, "kernel_size": 9}]', 0, "layer 1"),
        ('[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 9}]', 1, "10 scores"),
        ('[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 99999999}]', 1, "at most"),
        ('[{"layer": "Input", "shape": [8, 8, 1]}]', 0, "input"),
        (f'[{twice}, {twice}, {{"layer": "Flatten"}}, {{"layer": "Linear", "out_features": 10}}]', None, "named 'a'"),
        ("[[[[[]]]]]", 0, "layer 1"),
        (f'[{{"layer": "Residual", "body": [{wide}, {narrow}]}}]', 0, "Conv2D .* gives 64,000,000 values; at most"),
        (f'[{{"layer": "Residual", "body": [{many}]}}, {{"layer": "Residual", "body": [{many}]}}]', 1, "500 layers"),
    ]:
        with pytest.raises(LayerError, match=message) as caught:
            do(session, "restart", layers=text)
        assert caught.value.layer == layer, text
    assert session.run_dir == first
    do(session, "restart", layers='[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 10}]')
    wait_for(session, lambda: session.run_dir != first and session.trainer.steps > 3)
    assert [type(layer).__name__ for layer in session.segment.net] == ["Input", "Flatten", "Linear"]


def test_the_written_form_of_a_net_is_read_back():
    inner = [Conv2D(3, 3, padding=((1, 1), (1, 1)), bias=False), BatchNorm(eps=1e-3)]
    net = Sequential([Input((8, 8, 1)), *CONV[:3], Residual(inner), *CONV[3:]], initialize=False)
    assert read_net(write_net(net.config()), (8, 8, 1), 10, 0) == net.config()
