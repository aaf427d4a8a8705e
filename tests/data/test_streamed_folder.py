"""Folders streamed from disk: the same batches and bits as from memory, with only a few images held at a time."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from gpuconv import random
from gpuconv.data import Augmentation, Loader, Normalization, Samples, StreamLoader, folder, load

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def photos(tmp_path):
    draw = np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs", "owls")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(9 + label):
            pixels = draw.integers(0, 200, (8, 6, 3)) + 20 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("options", ["", ",size=5x7", ",channels=1,test=0.4,seed=2", ",split=order"])
def test_images_labels_and_batches_equal_those_of_a_folder_in_memory(photos, options):
    in_memory, streamed = load(f"folder:{photos}{options}"), load(f"folder:{photos}{options},stream=1")
    for memory, files in zip(in_memory, streamed, strict=True):
        assert isinstance(files, Samples)
        assert (files.name, [*files.classes], files.image_shape) == (memory.name, [*memory.classes], memory.image_shape)
        images, labels = files.read(np.arange(len(files)))
        np.testing.assert_array_equal(images, memory.images)
        np.testing.assert_array_equal(labels, memory.labels)
        np.testing.assert_array_equal(files.first(2), memory.images[:2])
        normalization = Normalization.from_dataset(memory)
        np.testing.assert_array_equal(Normalization.from_dataset(files).mean, normalization.mean)
        settings = {
            "normalization": normalization,
            "augmentation": Augmentation(flip=True, resized_crop=0.3, contrast=0.4, mixup=0.4),
            "seed": 3,
        }
        batches = zip(StreamLoader(files, 4, **settings).epoch(1), Loader(memory, 4, **settings).epoch(1), strict=True)
        for (x, y), (expected_x, expected_y) in batches:
            np.testing.assert_array_equal(x, expected_x)
            np.testing.assert_array_equal(y, expected_y)


def test_several_threads_decode_the_upcoming_images_and_no_others(photos, monkeypatch):
    train = folder.load_all(photos, stream=True)
    paths, threads, read_image = [], [], folder.read_image
    both_threads = threading.Barrier(2, timeout=10)

    def recorded(path, **options):
        paths.append(path)
        threads.append(threading.current_thread().name)
        if len(threads) <= 2:
            both_threads.wait()  # two threads must reach this at the same time
        return read_image(path, **options)

    monkeypatch.setattr(folder, "read_image", recorded)
    batches = StreamLoader(train, 3, normalization=Normalization([0.0] * 3, [1.0] * 3), workers=2).epoch(0)
    next(batches)
    batches.close()
    assert len(set(threads)) == 2
    order = random.permutation(len(train), seed=0, epoch=0)
    assert len(paths) == len({*paths})
    assert {*paths} <= {train.paths[at] for at in order[: 3 * 4]}  # one batch in use, and three ahead


def test_the_checksum_covers_names_sizes_dates_and_labels(photos, monkeypatch):
    train, _ = folder.load(photos, stream=True)
    first = train.checksum()
    monkeypatch.setattr(folder, "read_image", None)  # the checksum reads no image
    assert train.checksum() == first
    assert train.relabeled(["owls", "cats", "dogs"]).checksum() != first
    assert train.subset(slice(1, None)).checksum() != first
    path = train.paths[0]
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert train.checksum() != first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert train.checksum() == first
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert train.checksum() != first


def test_a_streamed_folder_can_be_split_and_relabeled(photos):
    samples = folder.load_all(photos, stream=True)
    first, second = samples.split(0.3, seed=1)
    memory_first, memory_second = folder.load_all(photos).split(0.3, seed=1)
    for files, memory in ((first, memory_first), (second, memory_second)):
        np.testing.assert_array_equal(files.read(np.arange(len(files)))[0], memory.images)
    relabeled = samples.relabeled(name for name in ("owls", "dogs", "cats"))
    assert relabeled.classes == ("owls", "dogs", "cats")
    np.testing.assert_array_equal(relabeled.read(np.arange(len(relabeled)))[1], 2 - samples.labels)
    with pytest.raises(ValueError, match="must have the training data's classes: it lacks 'x'"):
        samples.relabeled(["owls", "dogs", "cats", "x"])


def test_a_file_that_was_damaged_after_the_start_of_training_is_named(photos):
    train = folder.load_all(photos, stream=True)
    loader = StreamLoader(train, 4, normalization=Normalization([0.0] * 3, [1.0] * 3))
    (photos / "dogs" / "3.png").write_bytes(b"damaged")
    Image.new("RGB", (9, 9)).save(photos / "cats" / "2.png")
    for batch, message in ((3, "dogs/3.png as an image"), (0, "one size: .*cats/0.png has 8x6, .*cats/2.png has 9x9")):
        with pytest.raises(OSError, match=message) as raised:
            next(loader.over(train, shuffle=False).epoch(0, batch))
        assert isinstance(raised.value, ValueError)


def test_images_that_exceed_memory_are_refused_with_advice(photos, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 3000}.__getitem__)
    with pytest.raises(MemoryError, match=r"30 images of 'photos' take .*: stream=1 .*reads them when needed"):
        folder.load(photos)
    assert len(folder.load(photos, size=(2, 2))[0])
    assert len(folder.load(photos, stream=True)[0])
    for text in ("folder:x,stream=2", "folder:x,stream=maybe"):
        with pytest.raises(ValueError, match=r"cannot read 'stream=.*: expected 1 or 0"):
            load(text)


@pytest.mark.slow
def test_the_command_line_trains_on_a_streamed_folder_as_on_one_in_memory(photos, monkeypatch, capsys):
    from gpuconv.cli import main

    monkeypatch.chdir(photos.parent)
    tiny = ["--model", "seed-net", "--epochs", "2", "--batch-size", "4", "--device", "numpy", "--validation", "0.3"]
    for name, options in (("memory", ""), ("files", ",stream=1")):
        assert main(["train", "--data", f"folder:photos{options}", *tiny, "--run-dir", name]) == 0
    output = capsys.readouterr().out
    assert output.count("read as needed (identified by names, sizes, dates and labels)") == 1
    records = [(photos.parent / name / "metrics.jsonl").read_bytes() for name in ("memory", "files")]
    assert records[0] == records[1]
    assert main(["evaluate", "files", "--device", "numpy"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["train", "--resume", "files", "--device", "numpy"]) == 0
    os.utime(next(iter((photos / "cats").iterdir())), ns=(1, 1))
    assert main(["train", "--resume", "files", "--device", "numpy"]) == 2
    assert "checksum" in capsys.readouterr().err
