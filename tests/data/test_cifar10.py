"""CIFAR-10 in both formats, mostly with files of a few images to keep the tests fast."""

import os
import pickle
import struct

import numpy as np
import pytest

from gpuconv import data
from gpuconv.data import cifar10
from tests.data.cifar10_files import COUNT, FILES, LABELS, PIXELS, batch, write_binary, write_python


def check(train, test):
    assert train.classes[:2] == ("airplane", "automobile")
    assert train.images.shape == (5 * COUNT, 32, 32, 3)
    assert test.images.shape == (COUNT, 32, 32, 3)
    pixels, labels = zip(*(batch(number) for number in range(6)))
    np.testing.assert_array_equal(train.labels, np.concatenate(labels[:5]))
    np.testing.assert_array_equal(test.labels, labels[5])
    # Row 7, column 9 of the third image's green channel, which is its second plane.
    assert test.images[2, 7, 9, 1] == pixels[5][2, 1024 + 7 * 32 + 9]
    np.testing.assert_array_equal(train.images[COUNT + 1, :, :, 2].ravel(), pixels[1][1, 2048:])


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_the_binary_version_is_read(short_files, tmp_path, subfolder):
    write_binary(tmp_path / subfolder)
    check(*cifar10.load(tmp_path))
    check(*data.load(f"cifar10:{tmp_path}"))


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_python_version_is_read(short_files, tmp_path, subfolder, protocol, as_bytes):
    write_python(tmp_path / subfolder, protocol, as_bytes)
    check(*cifar10.load(tmp_path))


def python2_pickle(pixels, labels):
    """A pickle like the published files, which Python 2 wrote: protocol 2, byte strings, names in numpy.core."""

    def text(value):
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"M" + struct.pack("<H", pixels.shape[0]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_arrays_of_every_layout_are_read_at_every_pickle_protocol(short_files, tmp_path):
    """Contiguous, Fortran-ordered, strided and read-only arrays."""
    pixels, labels = batch(0)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for protocol in range(6):
        for array in (pixels, np.asfortranarray(pixels), np.repeat(pixels, 2, axis=0)[::2], frozen):
            names = [b"a.png"] * COUNT
            content = {b"data": array, b"labels": labels.tolist(), b"filenames": names, b"batch_label": b"batch 1"}
            (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol))
            read, read_labels = cifar10._read_python(tmp_path / "batch")
            np.testing.assert_array_equal(read, pixels)
            np.testing.assert_array_equal(read_labels, labels)


def test_pickles_of_python_2_are_read(short_files, tmp_path):
    for number, name in enumerate(FILES):
        (tmp_path / name).write_bytes(python2_pickle(*batch(number)))
    check(*cifar10.load(tmp_path))


@pytest.mark.slow
def test_files_of_full_size_are_read(tmp_path):
    write_binary(tmp_path, 10_000)
    train, test = cifar10.load(tmp_path)
    assert (len(train), len(test)) == (50_000, 10_000)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 in .*data_batch_1.*gpuconv data cifar10 --to"):
        cifar10.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("write", "name"), [(write_binary, "data_batch_3.bin"), (write_python, "test_batch")])
def test_a_missing_file_is_named(short_files, tmp_path, write, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is incomplete: {name} missing"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize("size", [0, 100, COUNT * 3073 - 1, COUNT * 3073 + 1])
def test_a_binary_file_of_the_wrong_size_is_refused(short_files, tmp_path, size):
    write_binary(tmp_path)
    os.truncate(tmp_path / "data_batch_4.bin", size)
    with pytest.raises(ValueError, match=rf"data_batch_4\.bin.*expected {COUNT * 3073} bytes, found {size}"):
        cifar10.load(tmp_path)


def test_a_binary_file_with_labels_out_of_range_is_refused(short_files, tmp_path):
    write_binary(tmp_path)
    content = bytearray((tmp_path / "test_batch.bin").read_bytes())
    content[3073] = 10
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"test_batch\.bin is corrupt.*\[0, 10\).*10"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 50, -1, -100])
def test_a_truncated_pickle_is_refused(short_files, tmp_path, keep):
    write_python(tmp_path)
    content = (tmp_path / "data_batch_2").read_bytes()[:keep]
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_2.*expected.*{COUNT} images.*found {len(content)} bytes"):
        cifar10.load(tmp_path)


def test_pickles_with_one_changed_byte_are_read_or_raise_a_value_error_that_names_the_file(short_files, tmp_path):
    """The changed byte is one of the first or last 200 bytes of the file, few of which are pixels."""
    write_python(tmp_path)
    valid = (tmp_path / "data_batch_1").read_bytes()
    positions = [*range(0, 200, 3), *range(len(valid) - 200, len(valid), 3)]
    refused = []
    for position in positions:
        changed = bytearray(valid)
        changed[position] ^= 0x55
        (tmp_path / "data_batch_1").write_bytes(changed)
        try:
            cifar10._read_python(tmp_path / "data_batch_1")
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(positions) // 3
    assert all("data_batch_1" in message for message in refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a pickled dict, found list"),
        ({}, "expected 'data'.*found none"),
        ({"data": [1], "labels": LABELS.tolist()}, "'data'"),
        ({"data": PIXELS.astype(np.int64), "labels": LABELS.tolist()}, "'data' of uint8"),
        ({"data": PIXELS[:-1], "labels": LABELS.tolist()}, rf"\({COUNT}, 3072\), found shape \({COUNT - 1}, 3072\)"),
        ({"data": PIXELS}, "'labels'.*NoneType"),
        ({"data": PIXELS, "labels": LABELS.tolist()[1:]}, f"found {COUNT - 1} entries"),
        ({"data": PIXELS, "labels": [0.0] * COUNT}, "integers of 64 bits, found float at index 0"),
        ({"data": PIXELS, "labels": [0] * (COUNT - 1) + ["cat"]}, f"found str at index {COUNT - 1}"),
        ({"data": PIXELS, "labels": [11] * COUNT}, r"labels in \[0, 10\), found 11"),
        ({"data": PIXELS, "labels": [-1] * COUNT}, "found -1"),
    ],
    ids=[
        *("list", "empty dict", "list as data", "int64 data", "missing image"),
        *("no labels", "missing label", "float labels", "text as label", "label 11", "label -1"),
    ],
)
def test_pickles_of_other_objects_are_refused(short_files, tmp_path, content, message):
    write_python(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=f"data_batch_1 .*{message}"):
        cifar10.load(tmp_path)


def test_labels_too_long_to_print_are_refused(short_files, tmp_path):
    """Python does not convert such integers to text, so the error cannot contain them."""
    write_python(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": PIXELS, "labels": [10**5000] * COUNT}, 2))
    with pytest.raises(
        ValueError, match=r"data_batch_1 is corrupt: .* integers of 64 bits, found an integer of more bits at index 0"
    ):
        cifar10.load(tmp_path)
