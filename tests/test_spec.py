"""Options in the short form of a schedule, an optimizer, a data set or an augmentation: given twice, and flags."""

from __future__ import annotations

import pytest

from gpuconv import spec
from gpuconv.cli import option_types
from gpuconv.data import Augmentation
from gpuconv.data import load as load_data
from gpuconv.training import optimizers, schedules


def test_an_option_given_twice_is_refused():
    """The last one must not win silently."""
    for read, text in (
        (load_data, "folder:x,test=0.1,test=0.2"),
        (load_data, "folder:x,test=0.1,TEST=0.1"),
        (load_data, "synthetic:n=8,N=9"),
        (load_data, "synthetic:n=8,classes=2,n=8"),
        (optimizers.get, "sgd:lr=0.1,lr=0.2"),
        (optimizers.get, "adam:lr=1,beta1=0.5,lr=1"),
        (optimizers.get, "sgd:weight_decay=1,Weight-Decay=1"),
        (optimizers.get, "* -> sgd:lr=0.1,lr=0.2"),
        (schedules.get, "step:3,gamma=0.1,gamma=0.2"),
        (Augmentation.parse, "flip,shift:1,flip"),
    ):
        with pytest.raises(ValueError, match="is given twice in '"):
            read(text)
    optimizers.get("norm1.weight -> sgd:lr=0.1; * -> sgd:lr=0.1")  # once in each group


def test_every_word_for_a_flag_is_read_in_every_place():
    for words, flag in (("1 true YES on", True), ("0 False no off", False)):
        for word in words.split():
            assert spec.parse_flag(word) is flag
            assert spec.parse(f"sgd:nesterov={word}")[0].options["nesterov"] == flag
            assert option_types.switch(word) == int(flag)
    for word in ("2", "", "y"):
        with pytest.raises(ValueError, match=f"expected 1 or 0, received '{word}'"):
            spec.parse_flag(word)
