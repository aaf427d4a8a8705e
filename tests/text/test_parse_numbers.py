"""Numbers on the command line and in option texts, as users write them."""

from __future__ import annotations

import pytest

from gpuconv.cli import main
from gpuconv.text import parse_numbers


def test_plain_numerals_are_read():
    assert [parse_numbers.integer(text) for text in ("0", "-3", "+10", " 7 ", "007")] == [0, -3, 10, 7, 7]
    assert [parse_numbers.real(text) for text in ("0", "-3", "1e-3", ".5", "inf")] == [0, -3, 1e-3, 0.5, float("inf")]
    assert [
        text for text in ("0", "12", "-1", "+1", "1.0", "", "x", "\u0663", "1_0") if parse_numbers.is_digits(text)
    ] == ["0", "12"]
    assert parse_numbers.volume("32X24x3", 3) == (32, 24, 3)
    assert parse_numbers.volume("1x1", 2) == (1, 1)


def test_python_only_number_syntax_is_refused():
    for text in ("1_0", "_1", "\uff11\uff10", "\u0663", "x", ""):
        for read, expected in ((parse_numbers.integer, "an integer"), (parse_numbers.real, "a number")):
            with pytest.raises(ValueError, match=f"^expected {expected}, received '{text}'$"):
                read(text)
    for text, axes in (("32x32", 3), ("32x32x3", 2), ("32x0", 2), ("1_0x8", 2), ("8x\u0663", 2), ("x8", 2)):
        with pytest.raises(ValueError, match=rf"expected a size written {'32x32x3' if axes == 3 else '32x32, '}"):
            parse_numbers.volume(text, axes)


def test_no_number_on_the_command_line_has_an_underscore(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["train", "--epochs", "1_0"], "expected a whole number of at least 1, received '1_0'"),
        (["train", "--seed", "1_0"], "expected a whole number of at least 0, received '1_0'"),
        (["train", "--lr", "1_0"], "expected a number above 0, received '1_0'"),
        (["train", "--lr", "\uff11"], "expected a number above 0, received '\uff11'"),
        (["verify", "--seed", "1_0"], "expected a whole number of at least 0, received '1_0'"),
        (["summary", "--model", "lenet", "--input", "3_2x32x3"], "written 32x32x3, received '3_2x32x3'"),
        (["train", "--data", "synthetic:n=1_0"], "cannot read 'n=1_0'"),
        (["train", "--data", "synthetic:size=1_0x8x3"], "cannot read 'size=1_0x8x3': expected a size written 32x32x3"),
        (["train", "--data", "folder:x,test=0.2_5"], "cannot read 'test=0.2_5'"),
        (["train", "--data", "folder:x,seed=1_0"], "cannot read 'seed=1_0'"),
        (["train", "--data", "folder:x,channels=0_3"], "cannot read 'channels=0_3'"),
        (["train", "--optimizer", "sgd:lr=0_1"], "lr must be a number, received '0_1'"),
        (["train", "--schedule", "step:1_0"], "'1_0' in 'step:1_0' is neither a number nor key=value"),
        (["train", "--schedule", "step:10,2_0"], "2_0"),
        (["train", "--optimizer", f"sgd:lr={'9' * 5000}"], "lr must be a number, received '999"),
        (["train", "--data", f"synthetic:size={'9' * 5000}x8x3"], "expected a size written 32x32x3, received '999"),
        (["explain", "run", "x.png", "--layer", "conv1", "--at", "1_0,2,3"], "numbers with commas, such as 5,7,12"),
        (["train", "--augment", "shift:0_1"], "'0_1' in 'shift:0_1' is neither a number nor key=value"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
