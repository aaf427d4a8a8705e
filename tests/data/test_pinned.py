"""Values that stored runs depend on, and the largest and smallest accepted arguments."""

from __future__ import annotations

import errno
import pathlib
import sys

import numpy as np
import pytest

from gpuconv import console
from gpuconv.data import (
    Augmentation,
    Dataset,
    Loader,
    Normalization,
    digits,
    download,
    from_spec,
    listing,
    pickles,
    synthetic,
)
from gpuconv.data.image import read_image


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
    for part in (*synthetic.load(4, size=(1, 1, 1), classes=2), *digits.load()):
        assert part.name in ("synthetic", "digits")
    assert synthetic.load(4, size=(1, 1, 1), classes=2)[0].classes == ("class 0", "class 1")


def test_at_most_five_mismatched_classes_are_named():
    images = np.zeros((1, 1, 1, 1), np.uint8)
    for count, names in ((5, "'a', 'b', 'c', 'd', 'e' and"), (6, "'a', 'b', 'c', 'd', 'e', ... and")):
        with pytest.raises(ValueError, match="lacks") as raised:
            Dataset(images, np.array([0]), ["x"], "set").relabeled("abcdef"[:count])
        assert str(raised.value) == (f"'set' must have the training data's classes: it lacks {names} has unknown 'x'")


def test_a_loader_accepts_its_largest_values():
    data = Dataset(np.zeros((6, 5, 4, 1), np.uint8), np.zeros(6, int), ["a"])
    make = {"normalization": Normalization([0], [1])}
    assert len(Loader(data, 6, drop_last=True, **make)) == 1
    assert Loader(data, 2, augmentation=Augmentation(shift=3), **make).augmentation.shift == 3
    with pytest.raises(ValueError, match=r"smaller than the image \(5 x 4\), received 4"):
        Loader(data, 2, augmentation=Augmentation(shift=4), **make)
    image = Normalization(np.zeros((5, 4, 1)), [1])
    assert len(list(Loader(data, 4, normalization=image).epoch())) == 2
    assert list(Loader(data, 4, **make).epoch(0, 2)) == []


def test_classes_without_an_image_and_the_last_label_are_accepted():
    data = Dataset(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 2]), "abc")
    assert data.labels.tolist() == [0, 2]


def test_mean_images_and_their_deviation_equal_those_by_hand():
    pixels = np.array([[0, 10], [4, 30], [8, 20], [12, 20]], np.uint8).reshape(2, 1, 2, 2)
    normalization = Normalization.from_dataset(Dataset(pixels, np.zeros(2, int), ["a"]), "image")
    assert normalization.mean.tolist() == [[[4, 15], [8, 25]]]
    np.testing.assert_array_equal(normalization.std, np.array([4, 5], np.float32))


def test_the_bar_of_a_resumed_download_counts_bytes_from_those_downloaded_before(monkeypatch, tmp_path):
    calls = []
    requests = pytest.importorskip("requests")

    class Response:
        status_code = 206
        headers = {"Content-Length": "6"}  # noqa: RUF012

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def raise_for_status(self):
            pass

        def iter_content(self, size):
            calls.append(size)
            return iter([b"cdef", b"gh"])

    class Bar(console._NoBar):
        def update(self, count=1):
            calls.append(count)

    monkeypatch.setattr(requests, "get", lambda *arguments, **options: calls.append((arguments, options)) or Response())
    monkeypatch.setattr(download, "progress_bar", lambda **options: calls.append(options) or Bar())
    (tmp_path / "x.part").write_bytes(b"ab")
    for progress in (True, False):
        calls.clear()
        (tmp_path / "x.part").write_bytes(b"ab")
        download._fetch("url/x", tmp_path / "x.part", 8, progress)
        assert (tmp_path / "x.part").read_bytes() == b"abcdefgh"
        assert calls == [
            (
                ("url/x",),
                {"headers": {"Range": "bytes=2-", "Accept-Encoding": "identity"}, "stream": True, "timeout": 30},
            ),
            {"total": 8, "initial": 2, "unit": "B", "unit_scale": True, "disable": not progress},
            1 << 14,
            4,
            2,
        ]


def test_an_unreadable_folder_is_an_error(monkeypatch, tmp_path):
    """Only links to nothing or to themselves are skipped."""
    (tmp_path / "cats").mkdir()

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "stat", refuse)
    with pytest.raises(PermissionError, match="cats"):
        list(listing._entries(tmp_path))


def test_a_package_that_is_not_installed_is_named(monkeypatch, tmp_path):
    for module, call, message in (
        ("requests", lambda: download.fetch_archive("u/x", tmp_path, sha256="", size=1), "needs requests: pip install"),
        ("PIL", lambda: read_image(tmp_path / "a.png"), r"image files needs Pillow: pip install \"gpuconv\[image\]"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ImportError, match=message):
                call()
    assert not list(tmp_path.iterdir())


def test_the_option_test_1_makes_a_folder_a_test_set():
    texts = {
        "folder:x,test=1": True,
        "folder:x,test=1.0": True,
        "Folder:x,TEST=1": True,
        "folder:x,test=0.5": False,
        "folder:x": False,
        "folder:x,test=all": False,
        "digits": False,
        "folder:": False,
    }
    assert {text: from_spec.is_test_set(text) for text in texts} == texts


def test_bytes_that_do_not_fill_their_shape_are_refused():
    dtype = pickles._Dtype("u1")
    for shape, fortran, expected in (
        ((2, 3), False, [[0, 1, 2], [3, 4, 5]]),
        ((2, 3), True, [[0, 2, 4], [1, 3, 5]]),
        ((7,), False, None),
        (("x",), False, None),
    ):
        array = pickles._from_buffer(bytes(range(6)), dtype, shape, "F" if fortran else "C")
        values = array.values()
        assert (None if values is None else values.tolist()) == expected
    for state in (None, (1, (6,), pickles._Dtype("u2"), False, bytes(6)), ("1", (6,), dtype, False, bytes(6)), (1,)):
        array.__setstate__(state)
        assert array.values() is None
