"""Augmentation: its text form, and the options that are refused."""

import pytest

from gpuconv.data import Augmentation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Augmentation()),
        ("flip", Augmentation(flip=True)),
        ("shift:4", Augmentation(shift=4)),
        ("flip,shift:4,cutout:8", Augmentation(flip=True, shift=4, cutout=8)),
        ("alternating-flip,reflect,shift:2", Augmentation(flip="alternating", shift=2, border="reflect")),
        ("resized-crop:0.08,flip", Augmentation(flip=True, resized_crop=0.08)),
        ("brightness:0.4,contrast:0.1,saturation:2", Augmentation(brightness=0.4, contrast=0.1, saturation=2)),
        ("contrast:1e-05,resized-crop:0.30000000000000004", Augmentation(contrast=1e-5, resized_crop=0.1 + 0.2)),
        ("hue:0.1", Augmentation(hue=0.1)),
        ("mixup:0.2", Augmentation(mixup=0.2)),
        ("flip,cutmix:1", Augmentation(flip=True, cutmix=1)),
        (" Cutout:3 , flip ", Augmentation(flip=True, cutout=3)),
    ],
)
def test_a_spec_is_parsed_and_written_back(text, expected):
    parsed = Augmentation.parse(text)
    assert parsed == expected
    assert Augmentation.parse(str(parsed)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filp", "did you mean 'flip'"),
        ("", "empty part; write it like .flip,shift:4."),
        ("shift", "shift:PIXELS"),
        ("shift:", "empty part"),
        ("shift:-1", "shift:PIXELS"),
        ("cutout:1.5", "cutout:PIXELS"),
        ("flip:1", "written flip"),
        ("flip,none", "unknown augmentation 'none'"),
        ("flip,flip", "augmentation 'flip' is given twice in 'flip,flip'"),
        ("shift:2,reflect,reflect", "augmentation 'reflect' is given twice"),
        ("resized-crop:0.2,resized-crop:0.1", "augmentation 'resized-crop' is given twice"),
        ("flip,alternating-flip", "augmentation 'alternating-flip' sets flip, which 'flip' set already, in 'flip,alt"),
        ("reflect:2", "written reflect"),
        ("resized-crop", "resized-crop:AREA"),
        ("resized-crop:1.5", r"resized_crop must lie in \[0.0, 1.0\], received 1.5"),
        ("contrast:-1", "contrast:STRENGTH"),
        ("brightness:0.4,brightness:0.2", "twice"),
        ("hue:0.6", r"hue must lie in \[0.0, 0.5\], received 0.6"),
        ("mixup", "mixup:ALPHA"),
        ("cutmix:1001", r"cutmix must lie in \[0.0, 1000.0\], received 1001"),
        ("mixup:0.2,cutmix:1", "a batch is mixed by mixup or by cutmix, received both, mixup 0.2 and cutmix 1.0"),
    ],
)
def test_a_bad_spec_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Augmentation.parse(text)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"shift": -1}, ValueError),
        ({"cutout": 2.0}, TypeError),
        ({"flip": 1}, TypeError),
        ({"shift": True}, TypeError),
        ({"resized_crop": 2}, ValueError),
        ({"contrast": -1}, ValueError),
        ({"mixup": -0.2}, ValueError),
        ({"cutmix": float("nan")}, ValueError),
        ({"saturation": "0.4"}, TypeError),
    ],
)
def test_bad_options_are_refused(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Augmentation(**options)


def test_the_positional_order_of_the_options_is_kept():
    assert Augmentation(False, 0, "zero", 0, 0.0, 0.0, 0.0, 0.0, 0.2) == Augmentation(mixup=0.2)
