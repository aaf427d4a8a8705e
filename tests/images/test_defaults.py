"""The defaults are those of a table, because other defaults would change the behavior of users' programs."""

from __future__ import annotations

from tests.defaults import IMMUTABLE_VALUE, IMMUTABLE_WITH_ARRAYS, dataclass_flags, expect_defaults

DEFAULTS = {
    "images.image_file": {"read_image": dict(size=None, channels=3), "Picture.array": dict(size=None, channels=3)},
    "images.normalization": {
        "Normalization.from_dataset": dict(kind="channel"),
        "Normalization.from_images": dict(kind="channel"),
    },
}


def test_defaults_are_those_of_the_table():
    expect_defaults(DEFAULTS)


def test_dataclasses_are_immutable():
    assert [flags for _, flags in dataclass_flags(["images.image_file:Picture"])] == [IMMUTABLE_VALUE]
    assert [flags for _, flags in dataclass_flags(["images.normalization:Normalization"])] == [IMMUTABLE_WITH_ARRAYS]
