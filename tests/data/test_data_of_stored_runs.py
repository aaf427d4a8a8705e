"""Values that stored runs depend on: the images of data sets, their names, and splits."""

from __future__ import annotations

from gpuconv.data import digits, synthetic


def test_shipped_and_synthetic_images_never_change():
    """A run identifies its data by these checksums; with other images it could not be resumed."""
    for data, sums in (
        (digits.load(), ["a7f44713", "a5f6c60b"]),
        (synthetic.load(20, size=(5, 7, 3), classes=4, seed=3), ["e0444dd3", "ccd364cb"]),
        (synthetic.load(3, size=(2, 3, 1), classes=2), ["03fc817f", "dab999f0"]),
    ):
        assert [part.checksum() for part in data] == sums


def test_a_split_never_changes():
    complete = digits.load()[0].subset(slice(60))
    first, second = complete.split(0.25, seed=2)
    in_second = {image.tobytes() for image in second.images}
    numbers = [number for number, image in enumerate(complete.images) if image.tobytes() in in_second]
    assert numbers == [0, 1, 2, 5, 7, 13, 20, 24, 27, 29, 33, 34, 37, 38, 40, 47, 51]
    assert len(first) == 60 - len(second) == 43


def test_the_names_of_data_sets_and_synthetic_classes_never_change():
    generated = synthetic.load(4, size=(1, 1, 1), classes=2)
    assert [part.name for part in (*generated, *digits.load())] == ["synthetic", "synthetic", "digits", "digits"]
    assert [part.classes for part in generated] == [("class 0", "class 1")] * 2
